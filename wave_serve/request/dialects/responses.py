"""OpenAI's responses: input as text or items, typed events, and what needs an engine that keeps responses."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from wave_serve.errors import ApiError, invalid
from wave_serve.request.dialects.conversation import Conversation, Entry, Role, texts_in
from wave_serve.request.dialects.media import refuse_kind, refuse_media
from wave_serve.request.dialects.responses_as_chat import responses_as_chat
from wave_serve.request.dialects.responses_body import ResponsesRequest
from wave_serve.request.generation import Generation
from wave_serve.request.values import shown
from wave_serve.settings import Overflow

ROLES = {"system": Role.SYSTEM, "developer": Role.SYSTEM, "user": Role.USER}
FINISH_REASONS = {"completed": "stop", "incomplete": "length"}
CALLS = ("function_call", "custom_tool_call")
RESULTS = ("function_call_output", "custom_tool_call_output")


class Responses(Conversation):
    """`/v1/responses`."""

    path: ClassVar = "/v1/responses"
    body: ClassVar = ResponsesRequest
    param: ClassVar = "input"
    unit: ClassVar = "item"
    # vLLM would call the response by a body's request_id, also by one under which it keeps another client's response.
    policy_fields: ClassVar = (*Conversation.policy_fields, "request_id")
    preamble: ClassVar = frozenset({"response.created", "response.queued", "response.in_progress"})
    last_events: ClassVar = frozenset({"response.completed", "response.incomplete", "response.failed"})
    usage_inside: ClassVar = "response"
    count_path: ClassVar = "/v1/responses/render"
    uncounted: ClassVar = (
        *("max_output_tokens", "stream", "truncation", "overflow"),
        *("store", "background", "previous_response_id"),
    )

    def read(self, payload: Mapping[str, Any]) -> Generation:
        """What the cap's policy needs of a body. Raises ApiError 400 naming field and value."""
        found = super().read(payload)
        asked = (field for field in ("previous_response_id", "background", "store") if payload.get(field))
        found = replace(found, kept=next(asked, None), stored=payload.get("store") is not False)
        truncation = payload.get("truncation")
        if found.overflow is not None or truncation is None:
            return found
        return replace(found, truncates=True) if truncation == "auto" else replace(found, overflow=Overflow.REJECT)

    def check(self, payload: Mapping[str, Any]) -> None:
        """The input is text, or one or more items of text. Raises ApiError 400."""
        given = payload.get("input")
        if isinstance(given, str) and given:
            return
        if not isinstance(given, list) or not given:
            raise invalid(f"input must be a string or a list of one or more items, got {shown(given)}", "input")
        for index, item in enumerate(given):
            where = f"input[{index}]"
            if not isinstance(item, dict):
                raise invalid(f"{where} must be an object, got {shown(item)}", "input")
            for member in ("type", "role", "call_id"):
                if not isinstance(item.get(member), str | None):
                    raise invalid(f"{where}.{member} must be a string, got {shown(item[member])}", "input")
            if not isinstance(item.get("content"), str | list | None):
                raise invalid(f"{where}.content must be a string or parts, got {shown(item['content'])}", "input")
            refuse_kind(item.get("type"), where, "input")
            refuse_media(item.get("content"), f"{where}.content", "input")
            refuse_media(item.get("output"), f"{where}.output", "input")

    def parts(self, payload: Mapping[str, Any]) -> list[Any]:
        """The items of the input; a text is one message of the user."""
        given = payload["input"]
        return [{"role": "user", "content": given}] if isinstance(given, str) else list(given)

    def entry(self, part: Any) -> Entry:
        """An item: a message, a call, its output, or the model's reasoning."""
        kind, call = part.get("type"), part.get("call_id")
        ids = frozenset([call] if isinstance(call, str) else [])
        if kind in CALLS:
            return Entry(Role.MODEL, calls=ids)
        if kind in RESULTS:
            return Entry(Role.TOOL, results=ids)
        return Entry(ROLES.get(part.get("role"), Role.MODEL))

    def text_of(self, part: Any) -> str:
        """The text of a message."""
        return texts_in(part.get("content"))

    def as_chat(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """The chat completion that vLLM makes of the body."""
        return responses_as_chat(payload, self.parts(payload))

    def told(self, part: Any) -> Any:
        """Usage and whether the answer was complete."""
        response = part.get("response", part) if isinstance(part, dict) else None
        if not isinstance(response, dict):
            return None
        told: dict[str, Any] = {"choices": [{"finish_reason": FINISH_REASONS.get(response.get("status", ""))}]}
        usage = response.get("usage")
        if not isinstance(usage, dict):
            return told
        counts = {"prompt_tokens": usage.get("input_tokens"), "completion_tokens": usage.get("output_tokens")}
        return told | {"usage": counts | {"prompt_tokens_details": usage.get("input_tokens_details")}}

    def error_event(self, error: ApiError) -> bytes:
        """The event `error`: its own members as the API's reference has them, and those by which the SDK raises."""
        body = self.error_body(error)
        told = {"type": "error", "code": error.code, "message": error.message, "param": error.param, **body}
        return b"event: error\ndata: " + json.dumps(told, ensure_ascii=False).encode() + b"\n\n"


RESPONSES = Responses()
