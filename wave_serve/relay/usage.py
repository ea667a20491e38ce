"""The `usage` of an answer: what truncation did joins it, and one that the client did not ask for is taken out."""

from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json

from wave_serve.request.dialects import Dialect


class AnswerUsage:
    """What becomes of the usage of one answer, whole or a stream, on its way to the client."""

    def __init__(self, dialect: Dialect, extension: Mapping[str, Any] | None = None, *, hidden: bool = False) -> None:
        """`extension` joins every usage; `hidden` where the gateway asked for a stream's usage, and its client not."""
        self._inside = dialect.usage_inside
        self._extension = extension
        self._hidden = hidden

    def hides(self, event: Any) -> bool:
        """Whether an event is the one with the usage that the client did not ask for: it has no choices."""
        return self._hidden and isinstance(event, dict) and event.get("choices") == [] and bool(event.get("usage"))

    def extended(self, answer: Any) -> bytes | None:
        """`answer` as JSON with the extension inside its usage; None where there is nothing to add, or no usage."""
        if not self._extension or not isinstance(answer, dict):
            return None
        if isinstance(answer.get("usage"), dict):
            return to_json(self._with_extension(answer))
        inner = None if self._inside is None else answer.get(self._inside)
        if not isinstance(inner, dict) or not isinstance(inner.get("usage"), dict):
            return None
        return to_json({**answer, self._inside: self._with_extension(inner)})

    def _with_extension(self, owner: dict[str, Any]) -> dict[str, Any]:
        return {**owner, "usage": {**owner["usage"], **(self._extension or {})}}
