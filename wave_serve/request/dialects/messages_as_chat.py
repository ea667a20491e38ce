"""The chat completion that vLLM's server makes of Anthropic's messages, so that their tokens can be counted as such.

It is asked about only where the engine's own count is closed, or refuses because the conversation is over its window.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

# Claude Code's line about the request itself, which vLLM leaves out so that a conversation finds its cached prefix.
ATTRIBUTION = "x-anthropic-billing-header"


def messages_as_chat(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a chat completion that decide its prompt."""
    chat: dict[str, Any] = {"messages": list(_messages(payload))}
    tools = payload.get("tools")
    if isinstance(tools, list):
        chat["tools"] = [_tool(tool) for tool in tools]
    for field in ("model", "chat_template_kwargs"):
        if payload.get(field) is not None:
            chat[field] = payload[field]
    effort = (payload.get("output_config") or {}).get("effort")
    if (payload.get("thinking") or {}).get("type") == "disabled":
        effort = "none"
    return chat if effort is None else chat | {"reasoning_effort": effort}


def _messages(payload: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    system = _system_text(payload.get("system"))
    if system:
        yield {"role": "system", "content": system}
    for message in payload["messages"]:
        content = message["content"]
        if message["role"] == "system":
            text = _system_text(content)
            if text:
                yield {"role": "system", "content": text}
        elif isinstance(content, str):
            yield {"role": message["role"], "content": content}
        else:
            yield from _of_blocks(message["role"], content)


def _system_text(content: Any) -> str:
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    texts = (part.get("text") for part in parts if part.get("type") == "text")
    return "".join(text for text in texts if isinstance(text, str) and not text.startswith(ATTRIBUTION))


def _of_blocks(role: str, blocks: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A user's results of tools become messages before what else the user says."""
    said: dict[str, Any] = {"role": role}
    texts: list[str] = []
    for block in blocks:
        match block.get("type"):
            case "text" if isinstance(block.get("text"), str) and block["text"]:
                texts.append(block["text"])
            case "tool_result" if role == "user":
                call = block.get("tool_use_id") or ""
                yield {"role": "tool", "tool_call_id": call, "content": _result_text(block.get("content"))}
            case "tool_result":
                texts.append(f"Tool result: {block.get('content') or ''}")
            case "tool_use":
                said.setdefault("tool_calls", []).append(_call(block))
            case "thinking" if isinstance(block.get("thinking"), str):
                said["reasoning"] = said.get("reasoning", "") + block["thinking"]
    if len(texts) == 1:
        said["content"] = texts[0]
    elif texts:
        said["content"] = [{"type": "text", "text": text} for text in texts]
    if role != "user" or "content" in said:
        yield said


def _result_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = (part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text")
    return "\n".join(text for text in texts if isinstance(text, str))


def _call(block: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": block.get("name") or "", "arguments": json.dumps(block.get("input") or {})}
    return {"id": block.get("id") or "call", "type": "function", "function": function}


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    schema = tool.get("input_schema")
    parameters = {**schema, "type": schema.get("type", "object")} if isinstance(schema, dict) else schema
    function = {"name": tool.get("name"), "description": tool.get("description"), "parameters": parameters}
    for field in ("strict", "defer_loading"):
        if tool.get(field) is not None:
            function[field] = tool[field]
    return {"type": "function", "function": function}
