"""The chat completion that vLLM's server makes of a response's input, so that its tokens can be counted as such.

It is asked about only where the engine's own count is closed, or refuses because the input is over its window.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

UNFINISHED = ("in_progress", "incomplete")


def responses_as_chat(payload: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The fields of a chat completion that decide its prompt; `items` are those of the input."""
    messages: list[dict[str, Any]] = []
    if payload.get("instructions"):
        messages.append({"role": "system", "content": payload["instructions"]})
    said = len(messages)
    for item in items:
        _add(messages, said, item)
    goes_on = items[-1].get("type", "message") in ("message", "reasoning") and items[-1].get("status") in UNFINISHED
    chat: dict[str, Any] = {
        "messages": messages,
        "add_generation_prompt": not goes_on,
        "continue_final_message": goes_on,
        "add_special_tokens": True,  # unlike a chat's, whose template is to bring them
    }
    tools = [_tool(tool) for tool in payload.get("tools") or () if tool.get("type") == "function"]
    if tools:
        chat["tools"] = tools
    for field in ("model", "chat_template_kwargs"):
        if payload.get(field) is not None:
            chat[field] = payload[field]
    effort = (payload.get("reasoning") or {}).get("effort")
    return chat if effort is None else chat | {"reasoning_effort": effort}


def _add(messages: list[dict[str, Any]], said: int, item: Mapping[str, Any]) -> None:
    """Adds an item: several of the assistant's in a row make one message, as long as each brings something new."""
    kind, role = item.get("type"), item.get("role")
    last = messages[-1] if len(messages) > said and messages[-1]["role"] == "assistant" else None
    if kind in ("function_call", "custom_tool_call"):
        if last is None:
            messages.append(last := {"role": "assistant"})
        last.setdefault("tool_calls", []).append(_call(item))
    elif kind in ("function_call_output", "custom_tool_call_output"):
        messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": _parts(item.get("output"))})
    elif kind == "reasoning":
        _join(messages, last, "reasoning", _first_text(item.get("content")) or _first_text(item.get("summary")) or "")
    elif role == "assistant":
        content = item.get("content")
        _join(messages, last, "content", content if isinstance(content, str) else _first_text(content) or "")
    else:
        messages.append({"role": role, "content": _parts(item.get("content"))})


def _join(messages: list[dict[str, Any]], last: dict[str, Any] | None, field: str, text: str) -> None:
    if last is not None and last.get(field) is None:
        last[field] = text
    else:
        messages.append({"role": "assistant", field: text})


def _first_text(parts: Any) -> str | None:
    first = parts[0] if isinstance(parts, list) and parts else None
    text = first.get("text") if isinstance(first, dict) else None
    return text if isinstance(text, str) else None


def _parts(content: Any) -> Any:
    """A content in the chat's types of parts."""
    if not isinstance(content, list):
        return content
    return [{"type": "text", "text": part.get("text", "")} for part in content if isinstance(part, dict)]


def _call(item: Mapping[str, Any]) -> dict[str, Any]:
    custom = item.get("type") == "custom_tool_call"
    arguments = json.dumps({"input": item.get("input") or ""}, ensure_ascii=False) if custom else item.get("arguments")
    return {
        "id": item.get("call_id"),
        "type": "function",
        "function": {"name": item.get("name"), "arguments": arguments},
    }


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}
