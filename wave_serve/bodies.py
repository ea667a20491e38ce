"""Parses and edits request bodies: small ones at once, large ones in a process of their own."""

from collections.abc import Mapping, Sequence
from typing import Any

from wave_serve.body import check_content_type, check_object, parse_object, with_fields
from wave_serve.errors import invalid
from wave_serve.worker.process import HeavyWork


class Bodies:
    """The request bodies of one gateway; those that are large go to `work`.

    A parsed large body has arrays in place of lists of token ids under `prompt`.
    """

    def __init__(self, work: HeavyWork) -> None:
        self._work = work

    async def parse(self, body: bytes, content_type: str | None) -> dict[str, Any]:
        """The JSON object in `body`. Raises ApiError 400, or 415 for another content type."""
        if not self._work.wants(len(body)):
            return parse_object(body, content_type)
        check_content_type(content_type)
        try:
            return check_object(await self._work.call("parse", body))
        except ValueError as error:
            raise invalid(str(error), code="invalid_json") from None

    async def edit(
        self, body: bytes, payload: Mapping[str, Any], changes: Mapping[str, Any], without: Sequence[str] = ()
    ) -> bytes:
        """`body`, which was parsed to `payload`, with some fields set and others left out; see `with_fields`."""
        in_place = not any(field in payload for field in (*changes, *without))
        if not self._work.wants(len(body)) or in_place:
            return with_fields(body, payload, changes, without)
        edited: bytes = await self._work.call("edit", body, dict(changes), tuple(without))
        return edited
