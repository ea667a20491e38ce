"""What is kept of prompts and chats that are too long, and how the client is told."""

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from helpers.engine_tokenizer import EngineTokenizer
from helpers.fake_upstream import FakeUpstream, reply_json, stream
from helpers.running import Running, running, settings_for

from wave_serve.context.truncation import Turns, cut, fewest_dropped, keep_tokens, turns_of
from wave_serve.engine.checkpoint import bundled_checkpoint
from wave_serve.request.dialects import CHAT
from wave_serve.settings import Overflow
from wave_serve.tokens.special_tokens import affixes_of

HEAD, MIDDLE, TAIL = Overflow.TRUNCATE_HEAD, Overflow.TRUNCATE_MIDDLE, Overflow.TRUNCATE_TAIL
USAGE = {"prompt_tokens": 3, "completion_tokens": 1}


@pytest.mark.parametrize(
    ("overflow", "prefix", "suffix", "expected"),
    [
        (HEAD, 0, 0, ((90, 101),)),
        (TAIL, 0, 0, ((0, 11),)),
        (MIDDLE, 0, 0, ((0, 5), (95, 101))),
        (HEAD, 1, 0, ((0, 1), (91, 101))),
        (TAIL, 1, 1, ((0, 10), (100, 101))),
        (MIDDLE, 2, 1, ((0, 6), (96, 101))),
        (HEAD, 10, 0, ((0, 10), (100, 101))),
        (HEAD, 10, 1, None),
        (MIDDLE, 11, 0, None),
    ],
)
def test_the_named_part_is_cut_away_and_special_tokens_stay(
    overflow: Overflow, prefix: int, suffix: int, expected: tuple | None
) -> None:
    assert keep_tokens(101, 11, overflow, prefix, suffix) == expected


@pytest.mark.parametrize("overflow", [HEAD, MIDDLE, TAIL])
@pytest.mark.parametrize("length", [1, 6, 7, 8, 63, 100])
@pytest.mark.parametrize("budget", [1, 2, 7])
def test_what_is_kept_fills_the_budget(overflow: Overflow, length: int, budget: int) -> None:
    ranges = keep_tokens(length, budget, overflow, 0, 0)
    ids = cut(range(length), ranges)
    assert len(ids) == min(length, budget)
    assert ids == sorted(set(ids))


def test_affixes_are_what_special_tokens_add() -> None:
    assert affixes_of([1, 5, 6, 2], [5, 6]).around([1, 9, 9, 2]) == (1, 1)
    assert affixes_of([1, 5, 6, 2], [5, 6]).around([7, 9, 9, 2]) == (0, 1)
    assert affixes_of([5, 6], [5, 6]).around([5, 6]) == (0, 0)
    assert affixes_of([8, 8], [5]).around([8, 8]) == (0, 0)


def chat(*roles: str) -> list[dict]:
    return [{"role": role, "content": str(index)} for index, role in enumerate(roles)]


def turns_of_chat(messages: list[dict]) -> Turns:
    return turns_of([CHAT.entry(message) for message in messages])


TALK = chat(
    "system", "user", "assistant", "tool", "assistant", "user", "assistant", "user", "tool", "user", "assistant"
)


def test_turns_are_a_users_message_with_what_answers_it() -> None:
    assert turns_of_chat(TALK).droppable == ((1, 2, 3, 4), (5, 6), (7, 8))
    assert turns_of_chat(chat("assistant", "user", "developer", "user")).droppable == ((0,), (1,))
    assert turns_of_chat(chat("system", "assistant")).droppable == ()


@pytest.mark.parametrize(
    ("overflow", "drop", "left"),
    [
        (HEAD, 1, ((0, 1), (5, 11))),
        (HEAD, 3, ((0, 1), (9, 11))),
        (MIDDLE, 1, ((0, 5), (7, 11))),
        (MIDDLE, 2, ((0, 1), (7, 11))),
        (TAIL, 1, ((0, 7), (9, 11))),
        (TAIL, 2, ((0, 5), (9, 11))),
    ],
)
def test_whole_turns_go_and_system_and_last_user_stay(overflow: Overflow, drop: int, left: tuple) -> None:
    assert turns_of_chat(TALK).keep(drop, overflow) == left


@pytest.mark.parametrize("overflow", [HEAD, MIDDLE, TAIL])
@pytest.mark.parametrize("budget", [1, 3, 9, 10])
def test_as_few_turns_as_needed_are_dropped(overflow: Overflow, budget: int) -> None:
    turns = turns_of_chat(TALK)

    async def count(ranges: tuple) -> int:
        return sum(end - start for start, end in ranges)

    found = asyncio.run(fewest_dropped(turns, overflow, budget, count))
    fitting = [
        drop for drop in range(1, len(turns.droppable) + 1) if asyncio.run(count(turns.keep(drop, overflow))) <= budget
    ]
    assert found == (None if not fitting else (ranges := turns.keep(fitting[0], overflow), asyncio.run(count(ranges))))


@pytest.fixture
def serve(upstream: FakeUpstream):
    """Starts gateways before the fake upstream, with settings of its model."""
    answer = reply_json({"choices": [{"index": 0, "text": "ok"}], "usage": USAGE})
    upstream.answers |= {"/v1/completions": answer, "/v1/chat/completions": answer}
    started = []

    def start(**model: object) -> Running:
        context = running(settings_for(upstream, model={"max_tokens": 100} | model))
        started.append(context)
        return context.__enter__()

    yield start
    for context in started:
        context.__exit__(None, None, None)


Serve = Callable[..., Running]


def forwarded(upstream: FakeUpstream) -> dict:
    return json.loads(upstream.requests[-1].body)


def test_a_text_is_cut_in_tokens_and_forwarded_as_ids(serve: Serve, upstream: FakeUpstream) -> None:
    answer = serve(overflow="truncate_head").post({"prompt": "abcdefghij" * 20, "max_tokens": 92})
    assert answer.status_code == 200
    assert forwarded(upstream) == {"model": "fake", "prompt": [1, *b"defghij"], "max_tokens": 92}
    assert answer.json()["usage"] == USAGE | {
        "truncation": {
            "overflow": "truncate_head",
            "unit": "token",
            "prompts": [{"original_tokens": 201, "kept_tokens": 8, "kept_ranges": [[0, 1], [194, 201]]}],
        }
    }
    headers = answer.headers
    assert headers["x-wave-truncated"] == "truncate_head"
    assert headers["x-wave-original-tokens"] == "201"
    assert headers["x-wave-kept-tokens"] == "0-1,194-201"
    assert headers["x-wave-context-tokens"] == "8"


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("overflow", ["truncate_head", "truncate_middle", "truncate_tail"])
@pytest.mark.parametrize("emoji", ["🙂", "日", "👩\u200d🚀"])
def test_no_cut_leaves_half_a_character(
    local: bool, overflow: str, emoji: str, serve: Serve, upstream: FakeUpstream
) -> None:
    engine = EngineTokenizer(bundled_checkpoint())
    upstream.answers |= engine.handlers
    one = serve(tokenizer=str(bundled_checkpoint() / "tokenizer.json")) if local else serve()
    prompt = emoji * 60
    for room in (9, 10, 11, 12):  # a character is up to four tokens
        answer = one.post({"prompt": prompt, "max_tokens": 100 - room, "overflow": overflow})
        assert answer.status_code == 200, answer.text
        sent = forwarded(upstream)["prompt"]
        assert room - 6 <= len(sent) <= room
        text = engine.decode(sent)
        assert "\ufffd" not in text
        assert set(text) <= set(emoji)
        (kept,) = answer.json()["usage"]["truncation"]["prompts"]
        assert kept["kept_tokens"] == len(sent) == sum(end - start for start, end in kept["kept_ranges"])


def test_a_text_that_holds_a_broken_character_is_cut_all_the_same(serve: Serve, upstream: FakeUpstream) -> None:
    upstream.answers["/detokenize"] = reply_json({"prompt": "\ufffd"})
    serve().post({"prompt": "abcdefghij" * 20, "max_tokens": 92, "overflow": "truncate_head"})
    assert forwarded(upstream)["prompt"] == [1, *b"defghij"]


@pytest.mark.parametrize("streamed", [False, True])
def test_an_echo_shows_only_what_is_kept_of_the_text(streamed: bool, serve: Serve, upstream: FakeUpstream) -> None:
    """The fake upstream puts token 1 before every text; vLLM echoes token ids with their special tokens."""
    echoed = {"index": 0, "text": "\x01defghij and more"}
    if streamed:
        events = [b"data: " + json.dumps({"choices": [one]}).encode() + b"\n\n" for one in (echoed, echoed)]
        upstream.answers["/v1/completions"] = stream(*events, b"data: [DONE]\n\n")
    else:
        upstream.answers["/v1/completions"] = reply_json({"choices": [echoed, echoed | {"index": 1}]})
    body = {"prompt": "abcdefghij" * 20, "max_tokens": 92, "echo": True, "stream": streamed}
    answer = serve(overflow="truncate_head").post(body)
    assert forwarded(upstream)["prompt"] == [1, *b"defghij"]
    if streamed:  # only the first of a choice's events begins with the prompt
        first, second, _ = answer.text.split("\n\n", 2)
        assert json.loads(first[6:])["choices"][0]["text"] == "defghij and more"
        assert json.loads(second[6:])["choices"] == [echoed]
    else:
        assert [choice["text"] for choice in answer.json()["choices"]] == ["defghij and more"] * 2


def test_special_tokens_stay_special_where_only_the_engine_knows_them(
    serve: Serve, upstream: FakeUpstream, tmp_path: Path
) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copy(bundled_checkpoint() / name, tmp_path / name)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config["extra_special_tokens"] = ["<|im_start|>"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    engine = EngineTokenizer(tmp_path)
    upstream.answers |= engine.handlers
    one = serve(tokenizer=str(tmp_path / "tokenizer.json"))
    one.post({"prompt": "<|im_start|>" * 150, "max_tokens": 90, "overflow": "truncate_head"})
    assert forwarded(upstream)["prompt"] == engine.encode("<|im_start|>" * 10)


def test_the_request_may_ask_for_it_and_the_field_is_not_passed_on(serve: Serve, upstream: FakeUpstream) -> None:
    one = serve()
    body = {"prompt": list(range(150)), "max_tokens": 90, "seed": 3}
    assert one.post(body).status_code == 400
    answer = one.post(body | {"overflow": "truncate_middle"})
    prompt = [0, 1, 2, 3, 4, 145, 146, 147, 148, 149]
    assert forwarded(upstream) == {"model": "fake", "prompt": prompt, "max_tokens": 90, "seed": 3}
    assert answer.headers["x-wave-kept-tokens"] == "0-5,145-150"


def test_the_request_may_ask_to_be_refused_instead(serve: Serve) -> None:
    answer = serve(overflow="truncate_head").post({"prompt": [5] * 150, "overflow": "reject"})
    assert answer.status_code == 400
    assert answer.json()["error"]["n_prompt_tokens"] == 150


def test_a_prompt_that_fits_is_passed_on_as_it_came(serve: Serve, upstream: FakeUpstream) -> None:
    answer = serve(overflow="truncate_head").post({"model": "fake", "prompt": "abc", "max_tokens": 96})
    assert upstream.requests[-1].body == b'{"model":"fake","prompt":"abc","max_tokens":96}'
    assert "truncation" not in answer.json()["usage"]
    assert not [name for name in answer.headers if name.startswith(("x-wave-truncated", "x-wave-kept"))]


def test_each_prompt_of_several_is_cut_by_itself(serve: Serve, upstream: FakeUpstream) -> None:
    answer = serve().post({"prompt": ["a" * 200, "bc"], "max_tokens": 97, "overflow": "truncate_tail"})
    assert forwarded(upstream)["prompt"] == [[1, *b"aa"], [1, *b"bc"]]
    assert answer.headers["x-wave-kept-tokens"] == "0-3;0-3"
    assert [one["original_tokens"] for one in answer.json()["usage"]["truncation"]["prompts"]] == [201, 3]


def test_ranges_too_many_for_a_header_are_in_the_usage(serve: Serve) -> None:
    prompts = [[7] * 200] * 300
    answer = serve(max_sequences=300).post({"prompt": prompts, "max_tokens": 90, "overflow": "truncate_middle"})
    assert answer.headers["x-wave-kept-tokens"] == "see usage"
    assert len(answer.json()["usage"]["truncation"]["prompts"]) == 300


def test_without_max_tokens_room_is_left_for_the_default_completion(serve: Serve, upstream: FakeUpstream) -> None:
    serve(default_max_completion_tokens=30).post({"prompt": [7] * 101, "overflow": "truncate_tail"})
    assert forwarded(upstream) == {"model": "fake", "prompt": [7] * 70, "max_tokens": 30}


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": [7] * 150, "max_tokens": 100},  # leaves no room for a prompt
        {"prompt": "x" * 150, "max_tokens": 99},  # nor for more than the special tokens
        {"prompt": [7] * 801, "max_tokens": 1},  # more than truncate_up_to
        {"prompt": "x" * 801, "max_tokens": 1},
    ],
)
def test_what_truncation_cannot_make_fit_is_refused(serve: Serve, upstream: FakeUpstream, body: dict) -> None:
    answer = serve().post(body | {"overflow": "truncate_head"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert upstream.generations == 0


def test_another_policy_is_refused_by_name(serve: Serve) -> None:
    for value in ("shorten", 1, ["reject"]):
        answer = serve().post({"prompt": "a", "overflow": value})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "overflow"


def test_a_chat_loses_whole_turns(serve: Serve, upstream: FakeUpstream) -> None:
    messages = chat("system", *("user", "assistant") * 60, "user")
    answer = serve(overflow="truncate_head").post({"messages": messages, "max_tokens": 60}, "/v1/chat/completions")
    sent = forwarded(upstream)["messages"]
    # One token a digit and one at the front: messages 0, 105 ... 121 are 1 + 1 + 17 * 2 or 3 tokens.
    assert sent[0] == messages[0]
    assert sent[1:] == messages[-(len(sent) - 1) :]
    assert sent[1]["role"] == "user"
    kept = int(answer.headers["x-wave-context-tokens"])
    assert kept == 1 + sum(len(message["content"]) for message in sent)
    assert 34 < kept <= 40
    assert answer.headers["x-wave-kept-messages"] == f"0-1,{122 - len(sent) + 1}-122"
    assert answer.json()["usage"]["truncation"]["unit"] == "message"


def test_a_chat_whose_last_turn_is_too_long_is_refused(serve: Serve) -> None:
    messages = [*chat("system", "user", "assistant"), {"role": "user", "content": "x" * 100}]
    answer = serve(overflow="truncate_head").post({"messages": messages}, "/v1/chat/completions")
    assert answer.status_code == 400
    assert answer.json()["error"]["n_prompt_tokens"] == 104


def test_a_stream_says_it_in_its_usage_chunk(serve: Serve, upstream: FakeUpstream) -> None:
    plain = b'data: {"choices":[{"index":0,"text":"ok"}],"usage":null}\n\n'
    last = b"data: " + json.dumps({"choices": [], "usage": USAGE}).encode() + b"\n\n"
    upstream.answers["/v1/completions"] = stream(plain, last, b"data: [DONE]\n\n")
    body = {"prompt": [7] * 150, "max_tokens": 50, "overflow": "truncate_head", "stream": True}
    answer = serve().post(body | {"stream_options": {"include_usage": True}})
    events = answer.content.split(b"\n\n")
    assert events[0] + b"\n\n" == plain
    told = json.loads(events[1].removeprefix(b"data: "))["usage"]["truncation"]
    assert told["prompts"] == [{"original_tokens": 150, "kept_tokens": 50, "kept_ranges": [[100, 150]]}]
    assert answer.headers["x-wave-kept-tokens"] == "100-150"


def test_a_truncated_request_is_counted(serve: Serve) -> None:
    one = serve(overflow="truncate_head")
    one.post({"prompt": [7] * 150, "max_tokens": 1})
    one.post({"prompt": [7] * 15, "max_tokens": 1})
    text = httpx.get(f"{one.url}/metrics").text
    assert 'wave_truncated_total{model="fake",overflow="truncate_head"} 1.0' in text
    assert 'wave_truncated_total{model="fake",overflow="truncate_tail"} 0.0' in text
