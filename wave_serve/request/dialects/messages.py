"""Anthropic's messages: its blocks, its errors in the words that its clients know, and its named events."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, NotRequired

from pydantic import ConfigDict, NonNegativeInt, with_config
from typing_extensions import TypedDict

from wave_serve.errors import ApiError, Code, ContextExceededError, invalid
from wave_serve.request.dialects.conversation import Conversation, Entry, Role, texts_in
from wave_serve.request.dialects.media import refuse_media
from wave_serve.request.dialects.messages_as_chat import messages_as_chat
from wave_serve.request.dialects.messages_body import CountedMessages, MessagesRequest
from wave_serve.request.values import shown

ROLES = {"user": Role.USER, "assistant": Role.MODEL, "system": Role.SYSTEM}
FINISH_REASONS = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "tool_use": "tool_calls"}
AnthropicErrorType = Literal[
    "api_error",
    "authentication_error",
    "invalid_request_error",
    "not_found_error",
    "overloaded_error",
    "permission_error",
    "rate_limit_error",
    "request_too_large",
    "timeout_error",
]
ERROR_TYPES: dict[int, AnthropicErrorType] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


@with_config(ConfigDict(use_attribute_docstrings=True))
class AnthropicErrorDetails(TypedDict):
    """What went wrong."""

    type: AnthropicErrorType
    message: str
    param: str | None
    """The field of the request at fault."""
    code: str | None
    """Machine-readable reason; each status names its own."""
    n_prompt_tokens: NotRequired[NonNegativeInt]
    """With context_length_exceeded: tokens of the prompt."""
    n_ctx: NotRequired[NonNegativeInt]
    """With context_length_exceeded: the cap that was exceeded."""


class AnthropicError(TypedDict):
    """The body of every error under /v1/messages, in Anthropic's shape."""

    type: Literal["error"]
    error: AnthropicErrorDetails


class Messages(Conversation):
    """`/v1/messages`."""

    path: ClassVar = "/v1/messages"
    body: ClassVar = MessagesRequest
    param: ClassVar = "messages"
    preamble: ClassVar = frozenset({"message_start", "ping"})
    last_events: ClassVar = frozenset({"message_stop"})
    usage_inside: ClassVar = "message"
    # Open in every server, and exact where its render twin is not: it knows which effort `thinking` disabled means.
    count_path: ClassVar = "/v1/messages/count_tokens"
    uncounted: ClassVar = tuple(MessagesRequest.model_fields.keys() - CountedMessages.model_fields.keys())

    def check(self, payload: Mapping[str, Any]) -> None:
        """The messages are some, each with a role and a content of text or blocks. Raises ApiError 400."""
        messages = payload.get("messages")
        if not isinstance(messages, list) or not messages:
            raise invalid(f"messages must be a list of one or more messages, got {shown(messages)}", "messages")
        for index, message in enumerate(messages):
            where = f"messages[{index}]"
            if not isinstance(message, dict):
                raise invalid(f"{where} must be an object, got {shown(message)}", "messages")
            role = message.get("role")
            if not isinstance(role, str) or role not in ROLES:
                said = ", ".join(ROLES)
                raise invalid(f"{where}.role must be one of {said}, got {shown(role)}", "messages")
            content = message.get("content")
            blocks = isinstance(content, list) and all(isinstance(block, dict) for block in content)
            if not isinstance(content, str) and not blocks:
                raise invalid(f"{where}.content must be a string or blocks, got {shown(content)}", "messages")
            for place, block in enumerate(content if isinstance(content, list) else ()):
                if not isinstance(block.get("type"), str):
                    said = shown(block.get("type"))
                    raise invalid(f"{where}.content[{place}].type must be a string, got {said}", "messages")
            refuse_media(content, f"{where}.content", "messages")
        refuse_media(payload.get("system"), "system", "system")

    def entry(self, part: Any) -> Entry:
        """A message; a user's that holds results of tools belongs to the calls before it."""
        calls = frozenset(_ids(part, "tool_use", "id"))
        results = frozenset(_ids(part, "tool_result", "tool_use_id"))
        tool = any(block.get("type") == "tool_result" for block in _blocks(part))
        return Entry(Role.TOOL if tool else ROLES[part["role"]], calls, results)

    def text_of(self, part: Any) -> str:
        """The text of a message."""
        return texts_in(part["content"])

    def count_in(self, answer: Mapping[str, Any]) -> int | None:
        """The tokens that the engine's own count_tokens answers."""
        tokens = answer.get("input_tokens")
        return tokens if isinstance(tokens, int) else None

    def as_chat(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """The chat completion that vLLM makes of the body."""
        return messages_as_chat(payload)

    def told(self, part: Any) -> Any:
        """Usage and the reason of the end; what was read from a cache is counted apart by Anthropic's API."""
        owner = part.get("message", part) if isinstance(part, dict) else None
        if not isinstance(owner, dict):
            return None
        delta, usage = owner.get("delta"), owner.get("usage")
        ended = delta if isinstance(delta, dict) else owner
        told: dict[str, Any] = {"choices": [{"finish_reason": FINISH_REASONS.get(ended.get("stop_reason", ""))}]}
        if not isinstance(usage, dict) or not isinstance(usage.get("input_tokens"), int):
            return told
        cached = usage.get("cache_read_input_tokens") or 0
        tokens = usage["input_tokens"] + cached + (usage.get("cache_creation_input_tokens") or 0)
        counts = {"prompt_tokens": tokens, "completion_tokens": usage.get("output_tokens")}
        return told | {"usage": counts | {"prompt_tokens_details": {"cached_tokens": cached}}}

    def error_body(self, error: ApiError) -> dict[str, Any]:
        """Anthropic's shape; what the gateway's other errors tell stands beside its two members."""
        default: AnthropicErrorType = "invalid_request_error" if error.status < 500 else "api_error"
        kind = ERROR_TYPES.get(error.status, default)
        told: AnthropicErrorDetails = {
            "type": kind,
            "message": _message(error),
            "param": error.param,
            "code": error.code,
        }
        body: AnthropicError = {"type": "error", "error": told if error.length is None else {**told, **error.length}}
        return dict(body)

    def error_event(self, error: ApiError) -> bytes:
        """The event `error`."""
        return b"event: error\ndata: " + json.dumps(self.error_body(error), ensure_ascii=False).encode() + b"\n\n"


def _message(error: ApiError) -> str:
    """The words by which Anthropic's clients see that they must compact, or ask for fewer tokens."""
    if not isinstance(error, ContextExceededError):
        over = error.code == Code.CONTEXT_LENGTH_EXCEEDED  # in the upstream's words
        return f"prompt is too long: {error.message}" if over else error.message
    prompt, completion, limit = error.prompt_tokens, error.completion_tokens, error.limit
    if prompt >= limit:  # room for one token must be left, so that a prompt of exactly the limit is too long as well
        return f"prompt is too long: {prompt} tokens > {min(limit, prompt - 1)} maximum"
    return (
        f"input length and `max_tokens` exceed context limit: {prompt} + {completion} > {limit}, "
        "decrease input length or `max_tokens` and try again"
    )


def _blocks(message: Mapping[str, Any]) -> list[Any]:
    return message["content"] if isinstance(message["content"], list) else []


def _ids(message: Mapping[str, Any], kind: str, field: str) -> Iterator[str]:
    for block in _blocks(message):
        if block.get("type") == kind and isinstance(block.get(field), str):
            yield block[field]


MESSAGES = Messages()
