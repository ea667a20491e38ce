"""OpenAI's chat completions."""

from collections.abc import Mapping
from typing import Any, ClassVar

from wave_serve.request.dialects.conversation import Conversation, Entry, Role, texts_in
from wave_serve.request.dialects.media import refuse_media
from wave_serve.request.fields import ChatRequest
from wave_serve.request.generation import check_messages

ROLES = {"system": Role.SYSTEM, "developer": Role.SYSTEM, "user": Role.USER, "tool": Role.TOOL, "function": Role.TOOL}


class Chat(Conversation):
    """`/v1/chat/completions`."""

    path: ClassVar = "/v1/chat/completions"
    body: ClassVar = ChatRequest
    param: ClassVar = "messages"
    # vLLM's own way of a chat up to its tokens, which unlike /tokenize knows tool parsers and response formats.
    count_path: ClassVar = "/v1/chat/completions/render"
    # The renderer refuses beams, which change no prompt, and would take `n` for samples without them.
    uncounted: ClassVar = (
        *("max_tokens", "max_completion_tokens", "stream", "stream_options", "overflow"),
        *("use_beam_search", "n"),
    )

    def check(self, payload: Mapping[str, Any]) -> None:
        """The messages are some, each with a role, and of text. Raises ApiError 400."""
        check_messages(payload)
        for index, message in enumerate(payload["messages"]):
            refuse_media(message.get("content"), f"messages[{index}].content", "messages")

    def entry(self, part: Any) -> Entry:
        """A message."""
        calls = part.get("tool_calls")
        ids = (call.get("id") for call in calls if isinstance(call, dict)) if isinstance(calls, list) else ()
        result = part.get("tool_call_id")
        return Entry(
            ROLES.get(part["role"], Role.MODEL),
            calls=frozenset(one for one in ids if isinstance(one, str)),
            results=frozenset([result] if isinstance(result, str) else []),
        )

    def text_of(self, part: Any) -> str:
        """The text of a message."""
        return texts_in(part.get("content"))

    def as_chat(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Itself."""
        return dict(payload)


CHAT = Chat()
