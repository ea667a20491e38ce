"""What the three APIs of conversations share: messages or items, of which only whole ones are left out."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Literal

from wave_serve.request.dialects.dialect import Dialect


class Role(Enum):
    """Whose an entry of a conversation is, as far as truncation cares."""

    SYSTEM = "always kept"
    USER = "begins a turn"
    MODEL = "answers it"
    TOOL = "holds results of the model's calls"


@dataclass(frozen=True)
class Entry:
    """One message or item of a conversation.

    Attributes:
        role: whose it is.
        calls: ids of the tool calls that it makes.
        results: ids of the calls whose results it holds.
    """

    role: Role
    calls: frozenset[str] = frozenset()
    results: frozenset[str] = frozenset()


class Conversation(Dialect):
    """An API of conversations.

    Attributes:
        unit: what a receipt's ranges count.
        count_path: the upstream's endpoint that knows a body's exact tokens.
        uncounted: fields that its count does not depend on, and that must not be held against the engine's limit.
    """

    unit: ClassVar[Literal["message", "item"]] = "message"
    count_path: ClassVar[str]
    uncounted: ClassVar[tuple[str, ...]]

    @abstractmethod
    def check(self, payload: Mapping[str, Any]) -> None:
        """The conversation has a shape that can be counted and cut, and holds only text. Raises ApiError 400."""

    def parts(self, payload: Mapping[str, Any]) -> list[Any]:
        """The conversation's messages or items."""
        return list(payload[self.param])

    @abstractmethod
    def entry(self, part: Any) -> Entry:
        """What truncation needs to know of one of them."""

    @abstractmethod
    def text_of(self, part: Any) -> str:
        """The text of a user's message that no template leaves out, for a lower bound on the tokens."""

    def last_user_text(self, payload: Mapping[str, Any]) -> str:
        """The text of the last user's message; empty where there is none."""
        for part in reversed(self.parts(payload)):
            if self.entry(part).role is Role.USER:
                return self.text_of(part)
        return ""

    def count_body(self, payload: Mapping[str, Any], model: str) -> dict[str, Any]:
        """What `count_path` is asked."""
        kept = {field: value for field, value in payload.items() if field not in self.uncounted}
        return {**kept, "model": model}

    def count_in(self, answer: Mapping[str, Any]) -> int | None:
        """The tokens in the answer of `count_path`; None where it has none."""
        tokens = answer.get("token_ids")
        return len(tokens) if isinstance(tokens, list) else None

    @abstractmethod
    def as_chat(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """The chat completion that the engine makes of the body, which `/tokenize` counts at any length."""


def texts_in(content: Any) -> str:
    """All text of a content that is a string or parts, without the space that a template may trim."""
    if isinstance(content, str):
        return content.strip()
    parts: Sequence[Any] = content if isinstance(content, list) else ()
    texts = (part.get("text") for part in parts if isinstance(part, dict))
    return "".join(text.strip() for text in texts if isinstance(text, str))
