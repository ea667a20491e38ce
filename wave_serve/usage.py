"""Adds what the gateway did with a prompt to the `usage` of an answer."""

from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json


def extend_usage(answer: Any, extension: Mapping[str, Any] | None) -> bytes | None:
    """`answer` as JSON with `extension` inside its `usage`; None where there is nothing to add, or no usage."""
    if not extension or not isinstance(answer, dict) or not isinstance(answer.get("usage"), dict):
        return None
    return to_json({**answer, "usage": {**answer["usage"], **extension}})
