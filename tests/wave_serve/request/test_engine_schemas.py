"""Schemas before a real engine: trees are answered, cycles are the client's fault, and no fault is tried again."""

from typing import Any

import httpx
import pytest
from helpers.served import Served

pytestmark = pytest.mark.engine
TREE = {
    "$defs": {"node": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2}},
    "type": "object",
    "properties": {"root": {"$ref": "#/$defs/node"}},
    "required": ["root"],
    "additionalProperties": False,
}
CYCLE = {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}


def ask(real: Served, schema: dict[str, Any]) -> httpx.Response:
    """A chat that is to be answered by the schema."""
    shape = {"type": "json_schema", "json_schema": {"name": "tree", "schema": schema}}
    body = {"model": real.model, "messages": [{"role": "user", "content": "x"}], "max_tokens": 60}
    return httpx.post(f"{real.url}/v1/chat/completions", json=body | {"response_format": shape}, timeout=120)


def test_a_recursive_schema_is_answered(real: Served) -> None:
    answer = ask(real, TREE)
    assert answer.status_code == 200, answer.text
    text = "".join(answer.json()["choices"][0]["message"]["content"].split())
    assert text[:9] == '{"root":['[: len(text)]


def test_a_cycle_is_a_400_and_the_engine_goes_on(real: Served) -> None:
    refused = ask(real, CYCLE)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "response_format")
    assert ask(real, TREE).status_code == 200


def test_a_grammar_without_any_text_is_not_tried_again(real: Served) -> None:
    body = {"model": real.model, "prompt": "x", "max_tokens": 5, "structured_outputs": {"grammar": "root ::= root"}}
    answer = httpx.post(f"{real.url}/v1/completions", json=body, timeout=120)
    assert (answer.status_code, answer.headers.get("x-should-retry")) == (500, "false")
