"""A prompt in tokens as an upstream gave it, read only as far as it is needed."""

import re
from collections.abc import Sequence

from pydantic_core import from_json

from wave_serve.errors import ApiError, Code

COUNT = re.compile(rb'\s*\{\s*"count"\s*:\s*(\d+)\s*,')  # how vLLM's answer begins


class UpstreamTokens:
    """The answer of vLLM's /tokenize; a long one takes a while to parse, its number of tokens stands in front."""

    def __init__(self, answer: bytes) -> None:
        """Takes the answer. Raises ApiError 502 where it holds no tokens."""
        self._answer = answer
        self._ids: Sequence[int] | None = None
        found = COUNT.match(answer)
        self._count = int(found[1]) if found else len(self.ids)

    def __len__(self) -> int:
        """Number of tokens."""
        return self._count

    @property
    def ids(self) -> Sequence[int]:
        """Token ids."""
        if self._ids is None:
            try:
                self._ids = from_json(self._answer)["tokens"]
            except (ValueError, KeyError, TypeError):
                self._ids = None
            if not isinstance(self._ids, list):
                raise ApiError(502, "The upstream's /tokenize gave no tokens.", code=Code.UPSTREAM_MALFORMED)
        return self._ids
