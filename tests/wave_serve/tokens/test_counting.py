"""How a chat's tokens are found: by the upstream's renderer, or by /tokenize where that is closed or too short."""

import json
from collections.abc import Iterator

import pytest
from helpers.fake_upstream import Connection, FakeUpstream, reply_json
from helpers.running import Running, running, settings_for

CHAT = "/v1/chat/completions"
RENDER = f"{CHAT}/render"
MESSAGES = [{"role": "user", "content": "x" * 70}]  # 71 tokens by /tokenize of the fake upstream
CONTEXT_ERROR = {"error": {"message": "This model's maximum context length is 1000 tokens.", "code": 400}}


@pytest.fixture
def gateway(upstream: FakeUpstream) -> Iterator[Running]:
    """A gateway before a fake upstream that answers chats."""
    upstream.answers[CHAT] = reply_json({"choices": []})
    with running(settings_for(upstream)) as one:
        yield one


def counted(gateway: Running, **fields: object) -> int:
    answer = gateway.post({"messages": MESSAGES} | fields, CHAT)
    assert answer.status_code == 200, answer.text
    return int(answer.headers["x-wave-context-tokens"])


def test_the_renderer_is_asked_with_all_that_decides_the_prompt(upstream: FakeUpstream, gateway: Running) -> None:
    asked = []

    async def render(connection: Connection) -> None:
        asked.append(json.loads(connection.body))
        await reply_json({"token_ids": [5] * 42})(connection)

    upstream.answers[RENDER] = render
    fields = {"tools": [{"type": "function", "function": {"name": "f"}}], "response_format": {"type": "json_object"}}
    assert counted(gateway, **fields, max_tokens=7, overflow="reject") == 42
    assert asked == [{"messages": MESSAGES, "model": "fake", **fields}]
    assert [request.path for request in upstream.requests] == [CHAT]


def test_beams_are_counted_without_what_the_renderer_refuses(upstream: FakeUpstream, gateway: Running) -> None:
    async def render(connection: Connection) -> None:
        asked = json.loads(connection.body)
        assert "temperature" in asked
        if {"use_beam_search", "n"} & asked.keys():
            refused = {"error": {"message": "Beam search is not supported by the render endpoint"}}
            await reply_json(refused, "400 Bad Request")(connection)
        else:
            await reply_json({"token_ids": [5] * 42})(connection)

    upstream.answers[RENDER] = render
    assert counted(gateway, use_beam_search=True, n=3, temperature=0) == 42
    assert json.loads(upstream.requests[-1].body)["use_beam_search"] is True
    assert json.loads(upstream.requests[-1].body)["n"] == 3


@pytest.mark.parametrize("status", ["403 Forbidden", "404 Not Found"])
def test_a_closed_renderer_is_not_asked_again(upstream: FakeUpstream, gateway: Running, status: str) -> None:
    asked = []

    async def closed(connection: Connection) -> None:
        asked.append(connection.path)
        await reply_json({"error": {"message": "closed"}}, status)(connection)

    upstream.answers[RENDER] = closed
    assert [counted(gateway), counted(gateway)] == [71, 71]
    assert len(asked) == 1


def test_a_chat_too_long_for_the_renderer_is_counted_all_the_same(upstream: FakeUpstream, gateway: Running) -> None:
    upstream.answers[RENDER] = reply_json(CONTEXT_ERROR, "400 Bad Request")
    answer = gateway.post({"messages": [{"role": "user", "content": "x" * 2000}]}, CHAT)
    assert answer.status_code == 400
    assert answer.json()["error"]["n_prompt_tokens"] == 2001


def test_what_the_renderer_refuses_is_refused(upstream: FakeUpstream, gateway: Running) -> None:
    error = {"error": {"message": '"auto" tool choice requires --enable-auto-tool-choice', "code": 400}}
    upstream.answers[RENDER] = reply_json(error, "400 Bad Request")
    answer = gateway.post({"messages": MESSAGES, "tool_choice": "auto"}, CHAT)
    assert answer.status_code == 400
    assert "tool choice" in answer.json()["error"]["message"]
    assert upstream.generations == 0


def test_a_renderer_that_gives_no_tokens_is_the_upstreams_fault(upstream: FakeUpstream, gateway: Running) -> None:
    upstream.answers[RENDER] = reply_json({"token_ids": None})
    answer = gateway.post({"messages": MESSAGES}, CHAT)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_malformed")
