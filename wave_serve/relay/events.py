"""Cuts an upstream's server-sent events into whole, checked ones, so that a client never sees half an event."""

import re
from collections.abc import Callable
from typing import Any

from pydantic_core import from_json

from wave_serve.errors import ApiError, Code
from wave_serve.relay.usage import AnswerUsage
from wave_serve.request.dialects import Dialect
from wave_serve.upstream.errors import event_error

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"[DONE]"
BOUNDARY = re.compile(rb"\r\n\r\n|\n\n|\r\r")
LONGEST_BOUNDARY = 4
LARGEST_EVENT = 64 * 2**20


class EventStream:
    """Takes bytes as they come and gives back the whole events among them.

    `usage` may extend or hide the usage in an event; all other events pass byte for byte.

    Attributes:
        has_event: whether an event with data has passed.
        has_token: whether one has that may hold a token.
        done: whether the last event of a complete answer has.
    """

    def __init__(self, dialect: Dialect, usage: AnswerUsage, seen: Callable[[Any], None]) -> None:
        """`usage` changes what events say of it; `seen` is called with the JSON value of each event."""
        self._dialect = dialect
        self._usage = usage
        self._seen = seen
        self.has_event = False
        self.has_token = False
        self.done = False
        self._rest = bytearray()
        self._searched = 0  # bytes of it in which no boundary begins

    def feed(self, data: bytes) -> bytes:
        """The whole events completed by `data`.

        Raises:
            ApiError: an event carries an error, is not JSON, or is too large; events before it are in `whole`.
        """
        self._rest += data
        whole = bytearray()
        start = 0
        for boundary in BOUNDARY.finditer(self._rest, self._searched):
            part = bytes(self._rest[start : boundary.end()])
            start = boundary.end()
            try:
                whole += self._checked(part)
            except ApiError as error:
                raise BrokenStreamError(bytes(whole), error) from None
        del self._rest[:start]
        self._searched = max(0, len(self._rest) - LONGEST_BOUNDARY + 1)
        if len(self._rest) > LARGEST_EVENT:
            raise BrokenStreamError(bytes(whole), _malformed(f"an event of more than {LARGEST_EVENT} bytes"))
        return bytes(whole)

    def _checked(self, part: bytes) -> bytes:
        """One event, whose data may stand on several lines, with what joins its usage. Raises ApiError."""
        lines = part.splitlines()
        data = b"\n".join([line[5:].strip() for line in lines if line.startswith(b"data:")])
        if data == DONE:
            self.done = True
        if data in (DONE, b""):
            return part
        try:
            value = from_json(data)
        except ValueError:
            raise _malformed("an event that is not JSON") from None
        error = event_error(value)
        if error is not None:
            raise error
        self.has_event = True
        self.has_token = self.has_token or self._dialect.has_token(value)
        self.done = self.done or self._dialect.ends(value)
        self._seen(value)
        if self._usage.hides(value):
            return b""
        extended = self._usage.extended(value)
        if extended is None:
            return part
        others = [line for line in lines if line and not line.startswith(b"data:")]
        return b"\n".join([*others, b"data: " + extended]) + part[len(part.rstrip(b"\r\n")) :]


class BrokenStreamError(Exception):
    """A stream that cannot go on: the whole events still to be sent, and the error that ends it."""

    def __init__(self, whole: bytes, error: ApiError) -> None:
        super().__init__(error.message)
        self.whole = whole
        self.error = error


def _malformed(what: str) -> ApiError:
    return ApiError(502, f"The upstream sent {what}.", code=Code.UPSTREAM_MALFORMED)
