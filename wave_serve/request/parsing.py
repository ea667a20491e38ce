"""Parses and edits request bodies: small ones at once, large ones in a process of their own."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import to_json

from wave_serve.errors import ApiError, Code, invalid
from wave_serve.request.values import json_kind
from wave_serve.worker.operations import parse_json
from wave_serve.worker.process import Worker


class Bodies:
    """The request bodies of one gateway; those that are large go to `work`.

    A parsed large body has arrays in place of lists of token ids under `prompt`.
    """

    def __init__(self, work: Worker) -> None:
        self._work = work

    async def parse(self, body: bytes, content_type: str | None) -> dict[str, Any]:
        """The JSON object in `body`. Raises ApiError 400, or 415 for another content type."""
        if not self._work.is_large(len(body)):
            return parse_object(body, content_type)
        check_content_type(content_type)
        try:
            return check_object(await self._work.call("parse", body))
        except ValueError as error:
            raise invalid(str(error), code=Code.INVALID_JSON) from None

    async def edit(
        self, body: bytes, payload: Mapping[str, Any], changes: Mapping[str, Any], without: Sequence[str] = ()
    ) -> bytes:
        """`body`, which was parsed to `payload`, with some fields set and others left out; see `with_fields`."""
        in_place = not any(field in payload for field in (*changes, *without))
        if not self._work.is_large(len(body)) or in_place:
            return with_fields(body, payload, changes, without)
        edited: bytes = await self._work.call("edit", body, dict(changes), tuple(without))
        return edited


def parse_object(body: bytes, content_type: str | None) -> dict[str, Any]:
    """The JSON object in `body`. Raises ApiError 400, or 415 for another content type."""
    check_content_type(content_type)
    try:
        value = parse_json(body)
    except ValueError as error:
        raise invalid(str(error), code=Code.INVALID_JSON) from None
    return check_object(value)


def check_content_type(content_type: str | None) -> None:
    """Raises ApiError 415 for anything but JSON."""
    media_type = (content_type or "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise ApiError(415, f"Content-Type must be application/json, got {media_type or 'none'!r}")


def check_object(value: Any) -> dict[str, Any]:
    """The value, where it is a JSON object. Raises ApiError 400."""
    if not isinstance(value, dict):
        raise invalid(f"The body must be a JSON object, got {json_kind(value)}", code=Code.INVALID_JSON)
    return value


def with_fields(
    body: bytes, payload: Mapping[str, Any], changes: Mapping[str, Any], without: Sequence[str] = ()
) -> bytes:
    """`body` with some fields set and others left out.

    It stays byte for byte where nothing changes, and but for its end where the fields to set are new.
    """
    gone = [field for field in without if field in payload]
    if gone or any(field in payload for field in changes):
        kept = {field: value for field, value in payload.items() if field not in gone}
        return to_json({**kept, **changes}, inf_nan_mode="constants")
    if not changes:
        return body
    end = body.rindex(b"}")
    return b"%s%s%s" % (body[:end], b"," if payload else b"", to_json(changes)[1:])
