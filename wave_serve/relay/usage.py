"""What of an answer is changed on its way to the client: its `usage`, and the beginning of a prompt that is echoed."""

from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json

from wave_serve.request.dialects import Dialect


class AnswerUsage:
    """What becomes of one answer, whole or a stream, on its way to the client."""

    def __init__(
        self,
        dialect: Dialect,
        extension: Mapping[str, Any] | None = None,
        *,
        hidden: bool = False,
        echoed_prefix: str = "",
    ) -> None:
        """How the answer is changed.

        Args:
            dialect: of the answer.
            extension: joins every usage.
            hidden: whether the gateway asked for a stream's usage, and its client did not.
            echoed_prefix: special tokens that stand before the client's text in an echo of a truncated prompt, which
                was sent as token ids.
        """
        self._inside = dialect.usage_inside
        self._extension = extension
        self._hidden = hidden
        self._echoed_prefix = echoed_prefix
        self._echoing: set[Any] = set()

    def hides(self, event: Any) -> bool:
        """Whether an event is the one with the usage that the client did not ask for: it has no choices."""
        return self._hidden and isinstance(event, dict) and event.get("choices") == [] and bool(event.get("usage"))

    def extended(self, answer: Any) -> bytes | None:
        """`answer`, or one event of it, as JSON with its changes; None where there are none."""
        if not isinstance(answer, dict):
            return None
        changed = self._with_usage(self._without_prefix(answer))
        return None if changed is answer else to_json(changed)

    def _with_usage(self, answer: dict[str, Any]) -> dict[str, Any]:
        if not self._extension:
            return answer
        if isinstance(answer.get("usage"), dict):
            return self._with_extension(answer)
        inner = None if self._inside is None else answer.get(self._inside)
        if self._inside is None or not isinstance(inner, dict) or not isinstance(inner.get("usage"), dict):
            return answer
        return {**answer, self._inside: self._with_extension(inner)}

    def _without_prefix(self, answer: dict[str, Any]) -> dict[str, Any]:
        """The answer with each choice's first text cut; with logprobs it stays, since these count in its characters."""
        if not self._echoed_prefix or not isinstance(answer.get("choices"), list):
            return answer
        return {**answer, "choices": [self._cut(choice) for choice in answer["choices"]]}

    def _cut(self, choice: Any) -> Any:
        text = choice.get("text") if isinstance(choice, dict) else None
        if not isinstance(text, str) or not text or choice.get("index") in self._echoing:
            return choice
        self._echoing.add(choice.get("index"))
        return choice if choice.get("logprobs") else {**choice, "text": text.removeprefix(self._echoed_prefix)}

    def _with_extension(self, owner: dict[str, Any]) -> dict[str, Any]:
        return {**owner, "usage": {**owner["usage"], **(self._extension or {})}}
