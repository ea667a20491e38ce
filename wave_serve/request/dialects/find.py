"""Finds the dialect of a path or of a body."""

from collections.abc import Mapping
from typing import Any

from wave_serve.errors import invalid
from wave_serve.request.dialects.chat import CHAT
from wave_serve.request.dialects.completions import COMPLETIONS
from wave_serve.request.dialects.dialect import Dialect
from wave_serve.request.dialects.messages import MESSAGES
from wave_serve.request.dialects.responses import RESPONSES

DIALECTS: tuple[Dialect, ...] = (COMPLETIONS, CHAT, RESPONSES, MESSAGES)


def dialect_at(path: str) -> Dialect:
    """The dialect in which whatever is asked at `path` is answered; OpenAI's where it is none's own."""
    return next((one for one in DIALECTS if path == one.path or path.startswith(f"{one.path}/")), COMPLETIONS)


def dialect_of(payload: Mapping[str, Any], headers: Mapping[str, str]) -> Dialect:
    """The dialect of a body that comes without a path of its own.

    Chat completions and Anthropic's messages may look alike; what only Anthropic's have decides: its header
    `anthropic-version`, `system`, or tools with an `input_schema`.

    Raises:
        ApiError: 400, it is in two dialects at once.
    """
    given = [field for field in ("prompt", "input", "messages") if field in payload]
    if len(given) > 1:
        raise invalid(
            f"give either prompt (a completion), messages (a chat) or input (a response), got {' and '.join(given)}",
            given[-1],
        )
    if given == ["input"]:
        return RESPONSES
    if given != ["messages"]:
        return COMPLETIONS
    tools = payload.get("tools")
    first = tools[0] if isinstance(tools, list) and tools else None
    anthropic = "system" in payload or (isinstance(first, dict) and "input_schema" in first)
    return MESSAGES if anthropic or "anthropic-version" in headers else CHAT
