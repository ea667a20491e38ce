"""Rates and concurrency of keys: in numbers with a clock of their own, and as a client meets them."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from helpers.fake_upstream import DONE, FakeUpstream, delta, stream
from helpers.running import Running, running, settings_for

from wave_serve.errors import ApiError, retry_headers
from wave_serve.keys.file import ApiKey, entry_for
from wave_serve.keys.limits import Bucket, Limits
from wave_serve.keys.refusals import duration

KEY = "sk-wave-limited-0123456789abcdef"
HEADERS = {"authorization": f"Bearer {KEY}"}
BODY = {"model": "fake", "prompt": "hello", "max_tokens": 5}  # 6 + 5 tokens


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def key(**limits: int) -> ApiKey:
    return ApiKey(name="k", sha256="0" * 64, **limits)


@pytest.fixture
def serve(upstream: FakeUpstream, tmp_path: Path) -> Iterator:
    started = []

    def start(**limits: int) -> Running:
        path = tmp_path / "keys.yaml"
        path.write_text("keys:\n" + entry_for(KEY, "k", limits))
        started.append(running(settings_for(upstream, auth={"keys_file": str(path)})))
        return started[-1].__enter__()

    yield start
    for one in started:
        one.__exit__(None, None, None)


def test_a_bucket_holds_a_minutes_worth_and_refills_evenly() -> None:
    bucket = Bucket(120, now=0.0)
    bucket.take(120, 0.0)
    assert bucket.level(0.0) == 0
    assert bucket.until(1, 0.0) == 0.5
    assert bucket.level(7.25) == 14.5
    assert bucket.level(1000.0) == 120
    bucket.take(-50, 1000.0)
    assert bucket.level(1000.0) == 120


@pytest.mark.parametrize("limit", [1, 3, 7, 60, 61, 999])
def test_waiting_as_long_as_told_is_enough(limit: int) -> None:
    clock = Clock()
    limits = Limits([key(requests_per_minute=limit)], clock)
    asked = key(requests_per_minute=limit)
    for _ in range(limit):
        limits.leave(limits.enter(asked))
    for _ in range(5):
        with pytest.raises(ApiError) as caught:
            limits.enter(asked)
        clock.now += int(caught.value.headers["retry-after-ms"]) / 1000
        limits.leave(limits.enter(asked))


def test_over_any_minute_no_more_passes_than_twice_the_limit_and_in_the_long_run_the_limit() -> None:
    clock = Clock()
    limits = Limits([key(requests_per_minute=30)], clock)
    passed = []
    while clock.now < 1000 + 600:
        try:
            limits.leave(limits.enter(key(requests_per_minute=30)))
            passed.append(clock.now)
        except ApiError:
            pass
        clock.now += 0.37
    assert max(sum(start <= moment < start + 60 for moment in passed) for start in passed) <= 60
    assert len(passed) <= 30 * 10 + 30
    assert len(passed) >= 30 * 10


def test_other_limits_keep_what_is_used() -> None:
    clock = Clock()
    limits = Limits([key(tokens_per_minute=100, concurrency=1)], clock)
    state = limits.enter(key(concurrency=1))
    limits.spend(key(), state, 90)
    limits.replace([key(tokens_per_minute=200, concurrency=1)])
    assert limits.headers(limits.state_of(key()))["x-ratelimit-remaining-tokens"] == "110"
    with pytest.raises(ApiError, match="at the same time"):
        limits.enter(key(concurrency=1))
    limits.replace([key(concurrency=1)])
    assert limits.headers(limits.state_of(key())) == {}
    limits.leave(state)
    limits.leave(limits.enter(key(concurrency=1)))


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0ms"),
        (0.0004, "1ms"),
        (0.12, "120ms"),
        (1, "1s"),
        (7.43, "7.5s"),
        (59.99, "1m0s"),
        (60, "1m0s"),
        (3661.5, "1h1m1.5s"),
    ],
)
def test_durations_are_written_as_openai_does(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_retry_after_is_never_zero() -> None:
    assert retry_headers(0) == {"retry-after": "1", "retry-after-ms": "1"}
    assert retry_headers(2.0401) == {"retry-after": "3", "retry-after-ms": "2041"}


def test_requests_over_the_rate_are_refused_with_when_to_come_back(serve, upstream: FakeUpstream) -> None:
    one = serve(requests_per_minute=2)
    seen = [one.post(BODY, headers=HEADERS) for _ in range(3)]
    assert [answer.status_code for answer in seen] == [200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in seen] == ["1", "0", "0"]
    refused = seen[-1]
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert 0 < int(refused.headers["retry-after-ms"]) <= 30_000
    assert refused.headers["x-ratelimit-limit-requests"] == "2"
    assert "x-ratelimit-limit-tokens" not in refused.headers
    assert len([request for request in upstream.requests if request.path == "/v1/completions"]) == 2


def test_looking_at_models_costs_nothing(serve) -> None:
    one = serve(requests_per_minute=1)
    for _ in range(3):
        answer = httpx.get(f"{one.url}/v1/models", headers=HEADERS)
        assert answer.headers["x-ratelimit-remaining-requests"] == "1"


def test_tokens_are_prompt_and_longest_completion(serve) -> None:
    one = serve(tokens_per_minute=100)
    answer = one.post(BODY | {"prompt": ["hello", "hi"], "n": 2}, headers=HEADERS)
    assert answer.headers["x-ratelimit-remaining-tokens"] == str(100 - (6 + 3) - 5 * 2 * 2)
    refused = one.post(BODY | {"prompt": "x" * 79}, headers=HEADERS)
    assert refused.status_code == 429
    assert "tokens a minute" in refused.json()["error"]["message"]
    assert int(refused.headers["retry-after"]) <= 10


@pytest.mark.parametrize(
    ("path", "body", "tokens"),
    [
        ("/v1/context", {"prompt": "x" * 79}, 80),
        ("/v1/context", {"messages": [{"role": "user", "content": "x" * 79}]}, 80),
        ("/v1/context", {"prompt": ["x" * 39] * 2}, 80),
        ("/tokenize", {"prompt": "x" * 79}, 80),
        ("/detokenize", {"tokens": [65] * 80}, 80),
    ],
)
def test_what_is_only_counted_costs_its_tokens(serve, path: str, body: dict, tokens: int) -> None:
    one = serve(tokens_per_minute=100)
    answer = one.post(body, path, headers=HEADERS)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-ratelimit-remaining-tokens"] == str(100 - tokens)
    assert one.post(body, path, headers=HEADERS).headers["x-ratelimit-remaining-tokens"] == "0"
    refused = one.post(body, path, headers=HEADERS)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(refused.headers["retry-after"]) > 30  # the second request took more than there was
    assert one.post(BODY, headers=HEADERS).status_code == 429


def test_counting_more_than_a_whole_minute_has_is_answered_and_paid_off(serve) -> None:
    one = serve(tokens_per_minute=100)
    answer = one.post({"prompt": "x" * 299}, "/v1/context", headers=HEADERS)
    assert (answer.status_code, answer.json()["tokens"]) == (200, 300)
    refused = one.post({"prompt": "x"}, "/v1/context", headers=HEADERS)
    assert refused.status_code == 429
    assert 100 < int(refused.headers["retry-after"]) <= 121


def test_a_request_over_the_whole_minute_is_told_not_to_retry(serve, upstream: FakeUpstream) -> None:
    one = serve(tokens_per_minute=100)
    client = openai.OpenAI(base_url=f"{one.url}/v1", api_key=KEY, max_retries=5)
    with pytest.raises(openai.RateLimitError, match="asks for 111 tokens") as caught:
        client.completions.create(**BODY | {"prompt": "x" * 105})
    assert "retry-after" not in caught.value.response.headers
    assert len([request for request in upstream.requests if request.path == "/tokenize"]) == 1


def test_tokens_of_a_request_that_no_upstream_saw_are_given_back(serve, upstream: FakeUpstream) -> None:
    one = serve(tokens_per_minute=100)
    refused = one.post(BODY | {"prompt": "x" * 2000}, headers=HEADERS)
    assert refused.status_code == 400
    assert refused.headers["x-ratelimit-remaining-tokens"] == "100"


def test_at_most_so_many_requests_run_at_once(serve, upstream: FakeUpstream) -> None:
    one = serve(concurrency=1)
    go = threading.Event()

    async def held(connection) -> None:
        await asyncio.to_thread(go.wait)
        await stream(delta("a"), DONE)(connection)

    upstream.answers["/v1/completions"] = held
    answers = []
    first = threading.Thread(target=lambda: answers.append(one.post(BODY | {"stream": True}, headers=HEADERS)))
    first.start()
    while "/v1/completions" not in [request.path for request in upstream.requests]:
        first.join(0.01)
    refused = one.post(BODY, headers=HEADERS)
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "concurrency_limit_exceeded"
    assert refused.headers["retry-after"] == "1"
    go.set()
    first.join()
    assert answers[0].status_code == 200
    assert one.post(BODY | {"stream": True}, headers=HEADERS).status_code == 200


def test_a_client_that_leaves_frees_its_place(serve, upstream: FakeUpstream) -> None:
    one = serve(concurrency=1)
    upstream.answers["/v1/completions"] = upstream.wait_for_abort
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{one.url}/v1/completions", json=BODY, headers=HEADERS, timeout=0.3)
    assert upstream.aborted.wait(10)
    upstream.answers["/v1/completions"] = stream(delta("a"), DONE)
    for _ in range(100):
        if (answer := one.post(BODY | {"stream": True}, headers=HEADERS)).status_code == 200:
            break
    assert answer.status_code == 200
