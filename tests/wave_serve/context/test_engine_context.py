"""Counts, truncation and preflight before a real vLLM engine: what the gateway says is what the engine does."""

import httpx
import pytest
from helpers.served import Served
from openai import OpenAI

pytestmark = pytest.mark.engine

TEXT = "def area(width, height):\n    return width * height\n\n"
AREA = {
    "type": "function",
    "function": {
        "name": "area",
        "description": "The area of a rectangle, in m².",
        "parameters": {"type": "object", "properties": {"width": {"type": "number"}, "kind": {"enum": [1, None, "a"]}}},
    },
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "area", "arguments": '{"width": 2}'}}
USER = {"role": "user", "content": TEXT}


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [USER]},
        {"messages": [{"role": "system", "content": "Be brief."}, USER, {"role": "assistant", "content": "2"}, USER]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": TEXT}, {"type": "text", "text": "日🙂"}]}]},
        {"messages": [USER], "tools": [AREA], "tool_choice": "none"},
        {"messages": [USER], "tools": [AREA, {"type": "function", "function": {"name": "f"}}], "tool_choice": "none"},
        {
            "messages": [
                USER,
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "call_1", "content": "6"},
                {"role": "user", "content": "Thanks"},
            ],
            "tools": [AREA],
            "tool_choice": "none",
        },
        {"messages": [USER], "add_generation_prompt": False},
        {
            "messages": [USER, {"role": "assistant", "content": "The area"}],
            "continue_final_message": True,
            "add_generation_prompt": False,
        },
        {"messages": [USER], "add_special_tokens": True},
        {"messages": [USER], "chat_template_kwargs": {"unused": "x"}, "reasoning_effort": "low"},
        {"messages": [USER], "response_format": {"type": "json_object"}},
        {"messages": [{"role": "developer", "content": "Be brief."}, USER], "max_completion_tokens": 1},
    ],
)  # fmt: skip
def test_a_chats_count_is_the_engines_to_the_token(real: Served, body: dict) -> None:
    answer = httpx.post(f"{real.url}/v1/chat/completions", json={"max_tokens": 1} | body, timeout=60)
    assert answer.status_code == 200, answer.text
    counted = answer.json()["usage"]["prompt_tokens"]
    assert int(answer.headers["x-wave-context-tokens"]) == counted
    told = httpx.post(f"{real.url}/v1/context", json={"max_tokens": 1} | body, timeout=60).json()
    assert (told["tokens"], told["fits"]) == (counted, True)


def test_the_engine_renders_chats_for_the_gateway(real: Served) -> None:
    upstream = next(iter(httpx.get(f"{real.url}/ready").json()["upstreams"]))
    body = {"model": real.model, "messages": [USER]}
    assert httpx.post(f"{upstream}/v1/chat/completions/render", json=body, timeout=60).json()["token_ids"]


def test_a_chat_beyond_the_engines_length_is_counted_too(real: Served) -> None:
    messages = [{"role": "user", "content": TEXT * 900}]
    answer = httpx.post(f"{real.url}/v1/chat/completions", json={"messages": messages}, timeout=60)
    tokens = httpx.post(f"{real.url}/tokenize", json={"messages": messages}, timeout=60).json()["count"]
    assert answer.status_code == 400
    assert answer.json()["error"]["n_prompt_tokens"] == tokens > 4096


@pytest.mark.parametrize("overflow", ["truncate_head", "truncate_middle", "truncate_tail"])
def test_a_truncated_text_is_answered_as_its_kept_tokens_are(client: OpenAI, real: Served, overflow: str) -> None:
    text = TEXT * 300
    asked = {"model": real.model, "max_tokens": 8, "temperature": 0}
    answer = client.completions.create(prompt=text, **asked, extra_body={"overflow": overflow})
    told = answer.usage.truncation["prompts"][0]
    ids = httpx.post(f"{real.url}/tokenize", json={"prompt": text}, timeout=60).json()["tokens"]
    kept = [token for start, end in told["kept_ranges"] for token in ids[start:end]]
    assert (told["original_tokens"], told["kept_tokens"]) == (len(ids), 4088)
    assert answer.usage.prompt_tokens == len(kept) == 4088
    assert kept[0] == ids[0] == 1  # the begin-of-text token
    assert client.completions.create(prompt=kept, **asked).choices[0].text == answer.choices[0].text


def test_a_truncated_chat_is_answered_as_what_is_left_of_it(client: OpenAI, real: Served) -> None:
    turn = [{"role": "user", "content": TEXT * 9}, {"role": "assistant", "content": TEXT * 9}]
    messages = [{"role": "system", "content": "Be brief."}, *turn * 9, {"role": "user", "content": "And now?"}]
    asked = {"model": real.model, "max_tokens": 8, "temperature": 0}
    raw = client.chat.completions.with_raw_response.create(
        messages=messages, **asked, extra_body={"overflow": "truncate_head"}
    )
    answer = raw.parse()
    ranges = answer.usage.truncation["prompts"][0]["kept_ranges"]
    left = [message for start, end in ranges for message in messages[start:end]]
    assert left[0]["role"] == "system"
    assert left[-1]["content"] == "And now?"
    assert len(left) < len(messages)
    assert answer.usage.prompt_tokens == int(raw.headers["x-wave-context-tokens"])
    whole = client.chat.completions.create(messages=left, **asked)
    assert whole.usage.prompt_tokens == answer.usage.prompt_tokens
    assert whole.choices[0].message.content == answer.choices[0].message.content


def test_a_truncated_stream_says_so_in_its_usage(client: OpenAI, real: Served) -> None:
    chunks = client.completions.create(
        model=real.model,
        prompt=[5] * 5000,
        max_tokens=2,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"overflow": "truncate_tail"},
    )
    usage = list(chunks)[-1].usage
    assert usage.prompt_tokens == 4094
    assert usage.truncation["prompts"] == [{"original_tokens": 5000, "kept_tokens": 4094, "kept_ranges": [[0, 4094]]}]


def test_the_engines_cache_is_among_the_limits(real: Served) -> None:
    (card,) = httpx.get(f"{real.url}/v1/models").json()["data"]
    assert card["limits"]["engine"] == card["max_model_len"] == 4096
    assert card["limits"]["kv_cache"] > 4096
    assert card["created"] > 1_700_000_000
