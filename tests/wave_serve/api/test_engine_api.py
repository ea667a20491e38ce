"""The gateway before a real vLLM engine, through OpenAI's SDK."""

import concurrent.futures
import json
import socket
import time

import httpx
import openai
import pytest
from helpers.cancelling import until
from helpers.served import Served
from openai import OpenAI

pytestmark = pytest.mark.engine
TEXT = "def area(width, height):\n    return width * height\n\n"


def limit_of(client: OpenAI) -> int:
    return client.models.list().data[0].max_model_len


def prompt_of(client: OpenAI, real: Served, tokens: int) -> list[int]:
    """A prompt of exactly that many token ids."""
    return [2 + index % 400 for index in range(tokens)]


def test_readiness_prints_a_curl_that_works(real: Served) -> None:
    until(lambda: f"curl {real.url}/v1/completions" in real.stdout.read_text())  # it says so after it is ready
    printed = real.stdout.read_text()
    body = printed[printed.index("-d '") + 4 : printed.rindex("'")]
    answer = httpx.post(f"{real.url}/v1/completions", json=json.loads(body), timeout=60)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["text"]
    assert f"open {real.url}/ in a browser" in printed
    assert "<title>wave-serve</title>" in httpx.get(f"{real.url}/").text


@pytest.mark.parametrize("length", [5, 701])
def test_stream_and_whole_answer_give_the_same_text_at_temperature_0(client: OpenAI, real: Served, length: int) -> None:
    asked = {"model": real.model, "prompt": prompt_of(client, real, length), "max_tokens": 40, "temperature": 0}
    whole = client.completions.create(**asked)
    chunks = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole.choices[0].text
    assert chunks[-1].usage == whole.usage


def test_seeded_requests_whose_prompts_are_read_in_parts_draw_the_same_again(client: OpenAI, real: Served) -> None:
    """Together they are more than one step reads; vLLM's engine on a CPU ended at the first part."""

    def ask(first: int) -> str:
        prompt = [2 + (first + index) % 400 for index in range(4000)]
        asked = {"model": real.model, "prompt": prompt, "max_tokens": 8, "temperature": 1.0, "seed": 5}
        return client.completions.create(**asked).choices[0].text

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        together = list(pool.map(ask, range(4)))
    assert [ask(first) for first in range(4)] == together


def test_chat_streams_the_same_text_too(client: OpenAI, real: Served) -> None:
    asked = {"model": real.model, "messages": [{"role": "user", "content": TEXT}], "temperature": 0, "max_tokens": 24}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True))
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content


def test_limits_are_shown_as_vllm_shows_them(client: OpenAI, real: Served) -> None:
    (listed,) = client.models.list().data
    assert listed == client.models.retrieve(real.model)
    assert listed.max_model_len == 4096
    assert listed.train_length == 512


def test_every_answer_carries_the_context_headers(client: OpenAI, real: Served) -> None:
    for stream in (False, True):
        answer = client.completions.with_raw_response.create(
            model=real.model, prompt=prompt_of(client, real, 768), max_tokens=1, stream=stream
        )
        assert answer.headers["x-wave-context-tokens"] == "768"
        assert answer.headers["x-wave-context-limit"] == "4096"
        assert answer.headers["x-wave-train-length"] == "512"
        assert answer.headers["x-wave-extrapolation-factor"] == "1.500"


@pytest.mark.parametrize(
    "text", ["x", TEXT * 7, "  tabs\tand \r\n lines ", "naïve 日本語 🙂", "<|end|> as text <|begin|>"]
)
@pytest.mark.parametrize("special", [True, False])
def test_the_gateways_count_is_the_engines(client: OpenAI, real: Served, text: str, special: bool) -> None:
    answer = client.completions.with_raw_response.create(
        model=real.model, prompt=text, max_tokens=1, extra_body={"add_special_tokens": special}
    )
    assert int(answer.headers["x-wave-context-tokens"]) == answer.parse().usage.prompt_tokens


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"extra_body": {"add_generation_prompt": False}},
        {"tools": [{"type": "function", "function": {"name": "area"}}], "tool_choice": "none"},
    ],
)
def test_the_gateways_count_of_a_chat_is_the_engines(client: OpenAI, real: Served, extra: dict) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": TEXT * 3}]
    answer = client.chat.completions.with_raw_response.create(
        model=real.model, messages=messages, max_tokens=1, **extra
    )
    assert int(answer.headers["x-wave-context-tokens"]) == answer.parse().usage.prompt_tokens


def test_a_prompt_of_eight_train_lengths_less_room_for_the_answer_completes(client: OpenAI, real: Served) -> None:
    answer = client.completions.create(model=real.model, prompt=prompt_of(client, real, 4088), max_tokens=8)
    assert answer.usage.prompt_tokens == 4088
    assert answer.usage.completion_tokens == 8


@pytest.mark.parametrize(("prompt_tokens", "completion"), [(4090, 7), (4096, 1), (9000, 16)])
def test_over_the_cap_is_openais_error(client: OpenAI, real: Served, prompt_tokens: int, completion: int) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(
            model=real.model, prompt=prompt_of(client, real, prompt_tokens), max_tokens=completion
        )
    error = caught.value
    assert error.code == "context_length_exceeded"
    assert error.type == "invalid_request_error"
    assert error.param == "prompt"
    assert error.body["n_prompt_tokens"] == prompt_tokens
    assert error.body["n_ctx"] == 4096
    assert "maximum context length is 4096 tokens" in error.message
    assert error.response.headers["x-wave-context-tokens"] == str(prompt_tokens)


def test_chat_over_the_cap_names_messages(client: OpenAI, real: Served) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=real.model, messages=[{"role": "user", "content": TEXT * 900}])
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "messages"
    assert caught.value.body["n_prompt_tokens"] > 4096


def test_without_max_tokens_what_is_left_is_granted(client: OpenAI, real: Served) -> None:
    answer = client.completions.create(
        model=real.model, prompt=prompt_of(client, real, 4093), extra_body={"ignore_eos": True}
    )
    assert answer.usage.completion_tokens == 3


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("prompt", {"a": 1}, "prompt must be"),
        ("prompt", [3, 512], "prompt[1] is out of range: token ids are from 0 to 511, got 512"),
        ("prompt", "", 'prompt must not be empty, got ""'),
        ("n", 1000, "n must be at most 128, got 1000"),
        ("max_tokens", -5, "max_tokens must be at least 0, got -5"),
        ("stream", "maybe", 'stream must be true or false, got "maybe"'),
        ("temperature", "hot", 'temperature must be a number, got "hot"'),
        ("temperature", -3, "temperature must be at least 0.0, got -3"),
    ],
)
def test_bad_input_is_a_400_that_names_field_and_value(real: Served, field: str, value: object, said: str) -> None:
    body = {"model": real.model, "prompt": "x", "max_tokens": 1, field: value}
    answer = httpx.post(f"{real.url}/v1/completions", json=body, timeout=60)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["type"] == "invalid_request_error"
    assert error["param"] == field
    assert said in error["message"]


@pytest.mark.parametrize(
    ("field", "least", "most", "others"),
    [
        ("repetition_penalty", 1e-30, 1e30, {"structured_outputs": {"choice": ["0"]}}),
        ("length_penalty", -50, 50, {"use_beam_search": True, "n": 2, "temperature": 0, "max_tokens": 8}),
    ],
)
def test_the_engine_takes_a_number_at_either_end_of_its_range_and_the_gateway_none_beyond(
    real: Served, field: str, least: float, most: float, others: dict[str, object]
) -> None:
    def status(value: float) -> int:
        body = {"model": real.model, "prompt": "0 def", "max_tokens": 2, field: value, **others}
        return httpx.post(f"{real.url}/v1/completions", json=body, timeout=60).status_code

    assert [status(value) for value in (least, most)] == [200, 200]
    assert [status(value) for value in (least / 1e10 if least > 0 else 10 * least, most * 1e10)] == [400, 400]


def test_tokenize_and_detokenize_are_the_engines(real: Served) -> None:
    ids = httpx.post(f"{real.url}/tokenize", json={"model": real.model, "prompt": TEXT}).json()["tokens"]
    text = httpx.post(f"{real.url}/detokenize", json={"model": real.model, "tokens": ids[1:]}).json()["prompt"]
    assert text == TEXT


def test_twenty_long_requests_at_once_all_finish(client: OpenAI, real: Served) -> None:
    def ask(index: int) -> openai.types.Completion:
        prompt = [2 + (index * 31 + place) % 400 for place in range(3000 + index)]
        return client.completions.create(
            model=real.model, prompt=prompt, max_tokens=16, stream=False, extra_body={"ignore_eos": True}
        )

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(ask, range(20)))
    assert [answer.usage.prompt_tokens for answer in answers] == [3000 + index for index in range(20)]
    assert all(answer.usage.completion_tokens == 16 for answer in answers)


def test_requests_with_the_same_id_do_not_disturb_each_other(client: OpenAI, real: Served) -> None:
    def ask(first: int) -> str:
        answer = client.completions.create(
            model=real.model,
            prompt=[first] * 20,
            max_tokens=200,
            temperature=0,
            extra_headers={"x-request-id": "same"},
            extra_body={"ignore_eos": True},
        )
        return answer.choices[0].text

    alone = [ask(first) for first in (5, 50)]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        assert list(pool.map(ask, (5, 50))) == alone


@pytest.mark.parametrize(
    ("stream", "read_first"),
    [(False, False), (True, False), (True, True)],
    ids=["whole", "stream before a token", "stream after a token"],
)
def test_a_client_that_goes_away_aborts_the_engines_request(real: Served, stream: bool, read_first: bool) -> None:
    finished = real.engine_metric("vllm:request_success_total", 'finished_reason="length"')
    generated = real.engine_metric("vllm:generation_tokens_total")
    asked = {
        "model": real.model,
        "prompt": [2] * 100,
        "max_tokens": 3900,
        "stream": stream,
        "ignore_eos": True,
    }
    body = json.dumps(asked).encode()
    host, port = real.url.removeprefix("http://").split(":")
    head = f"POST /v1/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        if read_first:
            while b"data: {" not in sock.recv(2**16):
                pass
        time.sleep(0.5)
    wait_until(lambda: real.engine_metric("vllm:generation_tokens_total") > generated)  # it had begun
    wait_until(lambda: real.engine_metric("vllm:num_requests_running") == 0)
    assert real.engine_metric("vllm:request_success_total", 'finished_reason="length"') == finished


def wait_until(holds) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
