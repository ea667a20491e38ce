"""A client that goes away frees a real engine of its request, whenever it goes, and of no one else's."""

import concurrent.futures
import time
from collections.abc import Iterator

import httpx
import pytest
from helpers.cancelling import asked, read_to, until
from helpers.served import Served

pytestmark = pytest.mark.engine
FREED = 5  # seconds; left alone, these generations take far longer
EVENT = b'data: {"id"'


def body(real: Served, *, stream: bool, prompt: int = 9, tokens: int = 4000) -> dict:
    """A generation of exactly `tokens` tokens; its prompt is one that no cache holds."""
    ids = [2 + (index * prompt) % 400 for index in range(prompt)]
    return {"model": real.model, "prompt": ids, "max_tokens": tokens, "stream": stream, "ignore_eos": True}


def running(real: Served) -> float:
    return sum(real.engine_metric(f"vllm:num_requests_{state}") for state in ("running", "waiting"))


def finished(real: Served) -> float:
    return real.engine_metric("vllm:request_success_total", 'finished_reason="length"')


def generated(real: Served) -> float:
    """Tokens generated so far, which unlike a gauge can be looked at after the generation."""
    return real.engine_metric("vllm:generation_tokens_total")


def in_flight(real: Served) -> list[str]:
    """The gateway's own gauges of running generations."""
    lines = httpx.get(f"{real.url}/metrics").text.splitlines()
    return [line.rsplit(" ", 1)[1] for line in lines if line.startswith("wave_in_flight_requests{")]


@pytest.fixture(autouse=True)
def idle_before_and_after(real: Served) -> Iterator[None]:
    """The engine runs nothing, and the gateway holds nothing."""
    until(lambda: running(real) == 0)
    yield
    until(lambda: running(real) == 0, FREED)
    until(lambda: in_flight(real) == ["0.0"])


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_leaving_as_soon_as_the_request_is_sent(real: Served, stream: bool) -> None:
    before = finished(real)
    for _ in range(5):
        with asked(real.url, body(real, stream=stream)):
            pass
    until(lambda: running(real) == 0, FREED)
    assert finished(real) == before


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_leaving_before_the_first_token(real: Served, stream: bool) -> None:
    before = finished(real)
    with asked(real.url, body(real, stream=stream, prompt=2500, tokens=1500)):
        until(lambda: running(real) == 1)
    until(lambda: running(real) == 0, FREED)
    assert finished(real) == before


def test_leaving_mid_stream(real: Served) -> None:
    before, tokens = finished(real), generated(real)
    with asked(real.url, body(real, stream=True)) as connection:
        read_to(connection, EVENT)
    until(lambda: generated(real) > tokens)
    until(lambda: running(real) == 0, FREED)
    assert finished(real) == before


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_leaving_after_the_end(real: Served, stream: bool) -> None:
    before = finished(real)
    with asked(real.url, body(real, stream=stream, tokens=3)) as connection:
        read_to(connection, b"data: [DONE]\n\n" if stream else b'"usage"')
    until(lambda: finished(real) == before + 1)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_one_of_many_leaves(real: Served, stream: bool) -> None:
    short = body(real, stream=stream, tokens=40)
    before, tokens = finished(real), generated(real)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        with asked(real.url, body(real, stream=stream)) as connection:
            answers = [pool.submit(httpx.post, f"{real.url}/v1/completions", json=short, timeout=60) for _ in range(3)]
            if stream:
                read_to(connection, EVENT)
            else:
                time.sleep(0.5)
        for answer in answers:
            text = answer.result().text
            assert '"finish_reason":"length"' in text
            assert "error" not in text
    until(lambda: finished(real) >= before + 3)  # vLLM counts a step after it has sent its tokens
    until(lambda: generated(real) > tokens + 3 * 40)  # so the one that left had begun
    until(lambda: running(real) == 0)
    assert finished(real) == before + 3
