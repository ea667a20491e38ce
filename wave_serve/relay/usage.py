"""The `usage` of an answer: what it says of the prompt is noted, and what truncation did joins it."""

from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json


class AnswerUsage:
    """The usage of one answer, whole or a stream.

    Attributes:
        prompt_tokens: what the upstream says that the prompt had; None until it does.
    """

    def __init__(self, extension: Mapping[str, Any] | None = None, *, hidden: bool = False) -> None:
        """`extension` joins every usage; `hidden` where the gateway asked for a stream's usage, and its client not."""
        self._extension = extension
        self._hidden = hidden
        self.prompt_tokens: int | None = None

    def note(self, answer: Any) -> None:
        """Takes what an answer, or one event of it, says of the prompt."""
        usage = answer.get("usage") if isinstance(answer, dict) else None
        if isinstance(usage, dict) and isinstance(usage.get("prompt_tokens"), int):
            self.prompt_tokens = usage["prompt_tokens"]

    def hides(self, event: Any) -> bool:
        """Whether an event is the one with the usage that the client did not ask for: it has no choices."""
        return self._hidden and isinstance(event, dict) and event.get("choices") == [] and bool(event.get("usage"))

    def extended(self, answer: Any) -> bytes | None:
        """`answer` as JSON with the extension inside its usage; None where there is nothing to add, or no usage."""
        if not self._extension or not isinstance(answer, dict) or not isinstance(answer.get("usage"), dict):
            return None
        return to_json({**answer, "usage": {**answer["usage"], **self._extension}})
