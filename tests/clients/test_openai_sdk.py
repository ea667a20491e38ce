"""OpenAI's SDK, sync and async: every class of error, and retries only where they can help."""

import asyncio
import time
from collections.abc import Callable, Iterator

import openai
import pytest
from helpers.fake_upstream import DONE, Connection, FakeUpstream, delta, hang_up, never, reply_json, stream
from helpers.running import Running, running, settings_for
from openai import AsyncOpenAI, OpenAI

from wave_serve.keys.file import entry_for

ASK = {"model": "fake", "prompt": "hello", "max_tokens": 5}
KEYS = {name: f"sk-wave-{name}-0123456789abcdef0123456789" for name in ("full", "limited", "narrow")}
Send = Callable[..., object]


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeUpstream]:
    """A fake upstream."""
    with FakeUpstream() as fake:
        yield fake


@pytest.fixture(scope="module")
def gateway(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway that asks for keys; two models, of which one key may use only the other one."""
    keys = tmp_path_factory.mktemp("keys") / "keys.yaml"
    limits = {"full": {}, "limited": {"tokens_per_minute": 20}, "narrow": {"models": ["other"]}}
    keys.write_text("keys:\n" + "".join(entry_for(KEYS[name], name, limits[name]) + "\n" for name in KEYS))
    models = {name: {"train_length": 100} for name in ("fake", "other")}
    upstream.answers["/v1/models"] = reply_json({"data": [{"id": name, "max_model_len": 1000} for name in models]})
    settings = settings_for(
        upstream,
        models=models,
        upstreams=[{"base_url": upstream.url, "models": list(models)}],
        auth={"keys_file": str(keys)},
        timeouts={"silence": 1.0, "retry_after": 1},
    )
    with running(settings) as one:
        yield one


@pytest.fixture(params=["sync", "async"])
def send(request: pytest.FixtureRequest, gateway: Running) -> Send:
    """Sends one completion, and reads its stream to the end where it is one; fields as given."""
    options = {"base_url": f"{gateway.url}/v1", "timeout": 20}

    def sync(key: str = "full", retries: int = 0, options: dict = options, **fields: object) -> object:
        with OpenAI(api_key=KEYS.get(key, key), max_retries=retries, **options) as client:
            answer = client.completions.create(**ASK | fields)
            return list(answer) if fields.get("stream") else answer

    def in_a_loop(key: str = "full", retries: int = 0, options: dict = options, **fields: object) -> object:
        async def ask() -> object:
            async with AsyncOpenAI(api_key=KEYS.get(key, key), max_retries=retries, **options) as client:
                answer = await client.completions.create(**ASK | fields)
                return [chunk async for chunk in answer] if fields.get("stream") else answer

        return asyncio.run(ask())

    return sync if request.param == "sync" else in_a_loop


def answers(upstream: FakeUpstream, *handlers: Callable) -> None:
    """The upstream's answers, one a generation; the last one stays."""
    left = list(handlers)

    async def next_one(connection: Connection) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(connection)

    upstream.answers["/v1/completions"] = next_one


HEALTHY = reply_json({"object": "text_completion", "choices": [{"index": 0, "text": "ok", "finish_reason": "stop"}]})


@pytest.mark.parametrize(
    ("fields", "error", "code"),
    [
        ({"max_tokens": -1}, openai.BadRequestError, None),
        ({"prompt": "x" * 2000}, openai.BadRequestError, "context_length_exceeded"),
        ({"key": "sk-wrong"}, openai.AuthenticationError, "invalid_api_key"),
        ({"key": "narrow"}, openai.PermissionDeniedError, "model_not_allowed"),
        ({"model": "none"}, openai.NotFoundError, "model_not_found"),
        ({"key": "limited", "max_tokens": 50}, openai.RateLimitError, "rate_limit_exceeded"),
    ],
)
def test_refusals_are_the_sdks_own_errors_and_are_not_retried(
    send: Send, upstream: FakeUpstream, fields: dict, error: type[openai.APIStatusError], code: str | None
) -> None:
    answers(upstream, HEALTHY)
    started = time.monotonic()
    with pytest.raises(error) as caught:
        send(**fields, retries=5)
    assert caught.value.code == code
    assert caught.value.request_id
    # Five retries with the SDK's own pauses take at least 0.5 + 1 + 2 + 4 + 8 seconds, less a quarter.
    assert time.monotonic() - started < 8


@pytest.mark.parametrize(
    ("handler", "code"),
    [
        (reply_json({"error": {"message": "out of order"}}, "500 Internal Server Error"), "upstream_error"),
        (hang_up, "upstream_died"),
        (never, "upstream_timeout"),
    ],
)
def test_failures_behind_the_gateway_are_internal_server_errors(
    send: Send, upstream: FakeUpstream, handler: Callable, code: str
) -> None:
    answers(upstream, handler)
    with pytest.raises(openai.InternalServerError) as caught:
        send()
    assert caught.value.code == code


def test_a_gateway_that_is_not_there_is_a_connection_error(send: Send) -> None:
    with pytest.raises(openai.APIConnectionError):
        send(options={"base_url": "http://127.0.0.1:9/v1", "timeout": 20})


def test_a_client_out_of_patience_gets_its_timeout(send: Send, upstream: FakeUpstream, gateway: Running) -> None:
    answers(upstream, never)
    with pytest.raises(openai.APITimeoutError):
        send(options={"base_url": f"{gateway.url}/v1", "timeout": 0.2})


def test_a_stream_that_fails_half_way_is_an_error_with_its_code(send: Send, upstream: FakeUpstream) -> None:
    answers(upstream, stream(delta("a"), end=False))
    with pytest.raises(openai.APIError) as caught:
        send(stream=True)
    assert caught.value.code == "upstream_died"


def test_a_retry_waits_as_long_as_it_is_told(send: Send, upstream: FakeUpstream) -> None:
    busy = reply_json({"error": {"message": "busy"}}, "503 Service Unavailable\r\nretry-after: 2")
    answers(upstream, busy, HEALTHY)
    before, started = upstream.generations, time.monotonic()
    assert send(retries=1).choices[0].text == "ok"
    assert upstream.generations == before + 2
    assert time.monotonic() - started >= 2  # the SDK's own first pause is half a second


def test_a_generation_that_ran_into_its_deadline_is_not_retried(send: Send, upstream: FakeUpstream) -> None:
    answers(upstream, never)
    before = upstream.generations
    with pytest.raises(openai.InternalServerError) as caught:
        send(retries=3)
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert upstream.generations == before + 1


def test_streams_come_whole_with_their_usage(send: Send, upstream: FakeUpstream) -> None:
    usage = b'data: {"choices": [], "usage": {"prompt_tokens": 6, "completion_tokens": 2, "total_tokens": 8}}\n\n'
    answers(upstream, stream(b": warming up\n\n", delta("a"), delta("b"), usage, DONE))
    chunks = send(stream=True, stream_options={"include_usage": True})
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == "ab"
    assert chunks[-1].usage.total_tokens == 8
