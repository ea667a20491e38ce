"""The four dialects before a real vLLM engine: counts, receipts, refusals and streams, as the SDKs see them."""

import random
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest
from helpers.cancelling import asked, read_to, until
from helpers.conversations import BODIES
from helpers.served import Served
from openai import OpenAI

from wave_serve.request.dialects import DIALECTS, Conversation, Dialect

pytestmark = pytest.mark.engine
TEXT = "def area(width, height):\n    return width * height\n\n"
TALK: Any = [{"role": "user", "content": TEXT * 12}, {"role": "assistant", "content": TEXT * 12}] * 12
QUESTION: Any = {"role": "user", "content": "And the circumference?"}
LIMITS = {"/v1/responses": "max_output_tokens"}
FREED = 2  # seconds; left alone, these generations take far longer


@pytest.fixture
def claude(real: Served) -> anthropic.Anthropic:
    """Anthropic's SDK against the real engine's gateway."""
    return anthropic.Anthropic(base_url=real.url, api_key="none", max_retries=0)


@pytest.fixture
def engine(real: Served) -> str:
    """The engine's own, private address."""
    return next(iter(httpx.get(f"{real.url}/ready").json()["upstreams"]))


def without_parser(body: dict) -> dict:
    """The engine has no parser of tool calls, so it takes tools only where none may be called."""
    if "tools" not in body or "input" in body:
        return body
    return body | {"tool_choice": {"type": "none"} if "input_schema" in body["tools"][0] else "none"}


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda one: one.path)
def test_the_count_of_random_bodies_is_the_engines(
    real: Served, engine: str, dialect: Dialect, pytestconfig: pytest.Config
) -> None:
    rng = random.Random(dialect.path)
    headers = {"anthropic-version": "2023-06-01"} if dialect.path == "/v1/messages" else {}
    bodies = 1000 if pytestconfig.getoption("full_matrix") else 60
    over = 0
    with httpx.Client(timeout=60) as client:
        for _ in range(bodies):
            body = without_parser(BODIES[dialect.path](rng)) | {"model": real.model}
            body[LIMITS.get(dialect.path, "max_tokens")] = 1
            rendered = client.post(f"{engine}{dialect.path}/render", json=body).json()
            (one,) = rendered if isinstance(rendered, list) else [rendered]
            if one.get("error", {}).get("param") == "input_tokens":  # over the engine's window: it renders no such body
                over += 1
                continue
            told = client.post(f"{real.url}/v1/context", json=body, headers=headers).json()
            assert (told["tokens"], told["exact"]) == (len(one["token_ids"]), True), body
            if not isinstance(dialect, Conversation):
                continue
            chat = {**dialect.as_chat(body), "model": real.model}  # how a conversation over the window is counted
            fields = (
                *("model", "messages", "tools", "add_generation_prompt", "continue_final_message"),
                "add_special_tokens",
            )
            asked = {field: chat[field] for field in fields if chat.get(field) is not None}
            assert client.post(f"{engine}/tokenize", json=asked).json()["count"] == len(one["token_ids"]), body
    assert over < bodies / 10


def test_what_is_generated_from_is_what_was_counted(real: Served, client: OpenAI, claude: anthropic.Anthropic) -> None:
    response = client.responses.with_raw_response.create(model=real.model, input=TEXT, max_output_tokens=3)
    assert int(response.headers["x-wave-context-tokens"]) == response.parse().usage.input_tokens
    messages: Any = [{"role": "user", "content": TEXT}]
    given: dict = {"model": real.model, "messages": messages, "system": "Be brief."}
    message = claude.messages.with_raw_response.create(**given, max_tokens=3)
    assert int(message.headers["x-wave-context-tokens"]) == message.parse().usage.input_tokens
    assert claude.messages.count_tokens(**given).input_tokens == message.parse().usage.input_tokens
    assert message.parse().stop_reason == "max_tokens"


def test_truncation_comes_with_its_receipt(real: Served, client: OpenAI, claude: anthropic.Anthropic) -> None:
    response = client.responses.with_raw_response.create(
        model=real.model, input=[*TALK, QUESTION], max_output_tokens=8, truncation="auto"
    )
    receipts = [(response.headers, response.parse().usage.model_extra["truncation"], "item")]
    message = claude.messages.with_raw_response.create(
        model=real.model, messages=[*TALK, QUESTION], max_tokens=8, extra_body={"overflow": "truncate_head"}
    )
    receipts.append((message.headers, message.parse().usage.model_extra["truncation"], "message"))
    chat = client.chat.completions.with_raw_response.create(
        model=real.model, messages=[*TALK, QUESTION], max_tokens=8, extra_body={"overflow": "truncate_head"}
    )
    receipts.append((chat.headers, chat.parse().usage.model_extra["truncation"], "message"))
    for headers, told, unit in receipts:
        (kept,) = told["prompts"]
        assert (told["overflow"], told["unit"]) == (headers["x-wave-truncated"], unit) == ("truncate_head", unit)
        assert kept["kept_ranges"][-1][1] == 25
        assert headers[f"x-wave-kept-{unit}s"] == ",".join(f"{start}-{end}" for start, end in kept["kept_ranges"])
        assert kept["original_tokens"] == int(headers["x-wave-original-tokens"]) > 4096
        assert kept["kept_tokens"] == int(headers["x-wave-context-tokens"]) <= 4088
    assert response.parse().usage.input_tokens == int(response.headers["x-wave-context-tokens"])
    assert message.parse().usage.input_tokens == int(message.headers["x-wave-context-tokens"])


def test_an_agents_oldest_exchanges_go_call_and_result_together(real: Served) -> None:
    steps: list[dict] = []
    for step in range(30):
        call = {"type": "tool_use", "id": f"toolu_{step}", "name": "read", "input": {"line": step}}
        steps.append({"role": "assistant", "content": [call]})
        steps.append(
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": f"toolu_{step}", "content": TEXT * 9}]}
        )
    body = {"model": real.model, "messages": [QUESTION, *steps], "max_tokens": 8, "overflow": "truncate_head"}
    answer = httpx.post(f"{real.url}/v1/messages", json=body, timeout=60)
    ((first, rest),) = [answer.json()["usage"]["truncation"]["prompts"][0]["kept_ranges"]]
    assert first == [0, 1], "the task"
    assert rest[0] % 2 == 1, "a call, whose result follows"
    assert rest[1] == 61


def test_over_the_cap_is_each_sdks_own_error(real: Served, client: OpenAI, claude: anthropic.Anthropic) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=real.model, input=TEXT * 900)
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "input")
    assert refused.value.body["n_ctx"] == 4096
    with pytest.raises(openai.BadRequestError) as disabled:
        client.responses.create(model=real.model, input=[*TALK, QUESTION], truncation="disabled")
    assert disabled.value.code == "context_length_exceeded"
    long: Any = [{"role": "user", "content": TEXT * 900}]
    tokens = claude.messages.count_tokens(model=real.model, messages=long).input_tokens
    with pytest.raises(anthropic.BadRequestError) as caught:
        claude.messages.create(model=real.model, messages=long, max_tokens=8)
    error = caught.value.body["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"] == f"prompt is too long: {tokens} tokens > 4096 maximum"
    assert (error["code"], error["n_prompt_tokens"], error["n_ctx"]) == ("context_length_exceeded", tokens, 4096)
    with pytest.raises(anthropic.BadRequestError, match=r"input length and `max_tokens` exceed context limit: [0-9]+ "):
        claude.messages.create(model=real.model, messages=[QUESTION], max_tokens=4096)
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.create(model="nobody", messages=[QUESTION], max_tokens=4)


@pytest.mark.parametrize("part", [{"type": "image_url", "image_url": {"url": "data:,"}}, {"type": "input_audio"}])
def test_what_is_no_text_is_refused_in_every_dialect(real: Served, part: dict) -> None:
    image = {"type": "input_image", "image_url": "data:,"}
    block = {"type": "image", "source": {"type": "url", "url": "data:,"}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [block]}
    for path, body, param in (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [part]}]}, "messages"),
        ("/v1/responses", {"input": [{"role": "user", "content": [image]}]}, "input"),
        ("/v1/responses", {"input": [{"type": "function_call_output", "call_id": "c", "output": [image]}]}, "input"),
        ("/v1/messages", {"messages": [{"role": "user", "content": [result]}]}, "messages"),
    ):
        answer = httpx.post(f"{real.url}{path}", json={"model": real.model, "max_tokens": 3, **body}, timeout=60)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, param)
        assert "only text is supported" in error["message"]


def test_streams_say_what_whole_answers_do(real: Served, client: OpenAI, claude: anthropic.Anthropic) -> None:
    asked: dict = {"model": real.model, "input": TEXT, "max_output_tokens": 24, "temperature": 0}
    events = list(client.responses.create(**asked, stream=True))
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert said == client.responses.create(**asked).output_text == events[-1].response.output_text
    assert events[-1].type == "response.completed"
    talk: dict = {"model": real.model, "messages": [{"role": "user", "content": TEXT}], "max_tokens": 24}
    talk["extra_body"] = {"temperature": 0}  # whichever of the SDK's series knows that field
    with claude.messages.stream(**talk) as stream:
        said = "".join(stream.text_stream)
        last = stream.get_final_message()
    assert said == claude.messages.create(**talk).content[0].text == last.content[0].text
    assert last.stop_reason == "max_tokens"


@pytest.fixture
def idle(real: Served) -> Iterator[None]:
    """The engine runs nothing, before and after."""
    until(lambda: running(real) == 0)
    yield
    until(lambda: running(real) == 0)


def running(real: Served) -> float:
    return sum(real.engine_metric(f"vllm:num_requests_{state}") for state in ("running", "waiting"))


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages"])
def test_a_client_that_leaves_frees_the_engine(real: Served, path: str, stream: bool) -> None:
    said = {"prompt": TEXT} if path == "/v1/completions" else {"messages": [QUESTION]}
    said = {"input": TEXT} if path == "/v1/responses" else said
    body = {"model": real.model, **said, LIMITS.get(path, "max_tokens"): 3900, "stream": stream}
    if path != "/v1/messages":
        body["ignore_eos"] = True
    else:  # which has no such field: the likeliest tokens of this model do not end soon, random ones may
        body["temperature"] = 0
    with asked(real.url, body, path) as connection:
        until(lambda: running(real) == 1)
        if stream:
            read_to(connection, b"data: {")
    until(lambda: running(real) == 0, FREED)


def test_what_needs_a_store_is_refused_by_name(real: Served) -> None:
    for field, value in (("store", True), ("background", True), ("previous_response_id", "resp_1")):
        answer = httpx.post(
            f"{real.url}/v1/responses", json={"model": real.model, "input": "x", field: value}, timeout=60
        )
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, field)
        assert "keeps no responses" in error["message"]
    answer = httpx.get(f"{real.url}/v1/responses/resp_1", timeout=60)
    assert answer.status_code == 400
