"""The `usage` of an answer: what truncation did joins it, and one that the client did not ask for is taken out."""

from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json


class AnswerUsage:
    """What becomes of the usage of one answer, whole or a stream, on its way to the client."""

    def __init__(self, extension: Mapping[str, Any] | None = None, *, hidden: bool = False) -> None:
        """`extension` joins every usage; `hidden` where the gateway asked for a stream's usage, and its client not."""
        self._extension = extension
        self._hidden = hidden

    def hides(self, event: Any) -> bool:
        """Whether an event is the one with the usage that the client did not ask for: it has no choices."""
        return self._hidden and isinstance(event, dict) and event.get("choices") == [] and bool(event.get("usage"))

    def extended(self, answer: Any) -> bytes | None:
        """`answer` as JSON with the extension inside its usage; None where there is nothing to add, or no usage."""
        if not self._extension or not isinstance(answer, dict) or not isinstance(answer.get("usage"), dict):
            return None
        return to_json({**answer, "usage": {**answer["usage"], **self._extension}})
