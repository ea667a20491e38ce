"""Large bodies are read by a process of their own, with the same outcome as small ones."""

import asyncio
import concurrent.futures
import json
import os
import signal
from array import array
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from helpers.fake_upstream import FakeUpstream, reply_json
from helpers.running import Running, running, settings_for

from wave_serve.errors import ApiError
from wave_serve.request.parsing import Bodies, parse_object
from wave_serve.tokens.tokenizer import LocalTokenizer
from wave_serve.worker.operations import MOST_VALUES, parse
from wave_serve.worker.process import Worker

JSON = "application/json"


@pytest.fixture
def gateway(upstream: FakeUpstream) -> Iterator[Running]:
    """A gateway that takes every body for a large one."""
    with running(settings_for(upstream, model={"vocab_size": 500}, large_body_bytes=1)) as one:
        yield one


def run(work: object) -> object:
    """Runs a coroutine function of one Worker, and ends the worker."""

    async def main() -> object:
        heavy = Worker(0)
        try:
            return await work(heavy)
        finally:
            await heavy.close()

    return asyncio.run(main())


def test_token_ids_come_as_arrays_and_all_else_as_it_is() -> None:
    values = {"prompt": [1, 2], "stop_token_ids": [1], "x": {"prompt": [3]}}
    found = parse(json.dumps(values).encode())
    assert found == values | {"prompt": array("q", [1, 2])}
    assert parse(b'{"prompt": [[1], [2, 3]]}')["prompt"] == [array("q", [1]), array("q", [2, 3])]
    for odd in ([True], [1.5], ["a"], [], [[1], "a"], [2**64], None):
        assert parse(json.dumps({"prompt": odd}).encode())["prompt"] == odd


@pytest.mark.parametrize(
    ("prompt", "read"),
    [([1.0, 2], [1, 2]), ([[1], [2.0, 3.0]], [[1], [2, 3]]), ([1.5], [1.5]), ([True, 1.0], [True, 1]), (2.0, 2.0)],
)
def test_whole_token_ids_are_integers_however_they_are_written(prompt: object, read: object) -> None:
    body = json.dumps({"prompt": prompt, "other": [1.0]}).encode()
    assert repr(parse_object(body, "application/json")) == repr({"prompt": read, "other": [1.0]})
    assert json.dumps(parse(body)["prompt"], default=list) == json.dumps(read)


@pytest.mark.parametrize("body", ["[" * 300 + "]" * 300, '{"a":' * 300 + "1" + "}" * 300, '{"prompt":' + "[" * 10**5])
@pytest.mark.parametrize("large_body_bytes", [1, 2**20])
def test_a_body_that_is_nested_too_deep_is_called_that(
    upstream: FakeUpstream, body: str, large_body_bytes: int
) -> None:
    headers = {"content-type": "application/json"}
    with running(settings_for(upstream, large_body_bytes=large_body_bytes)) as one:
        answer = httpx.post(f"{one.url}/v1/completions", content=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "The body is nested too deep: about 200 levels are read"


@pytest.mark.parametrize("value", [[0] * MOST_VALUES, [[0]] * (MOST_VALUES // 2), [{}] * MOST_VALUES, "deep"])
def test_more_values_than_the_gateway_could_take_at_once_are_refused(value: object) -> None:
    if value == "deep":
        value = [[[0] * 1000 for _ in range(100)] for _ in range(2)]
    body = json.dumps({"messages": value}).encode()
    with pytest.raises(ValueError, match=f"more than {MOST_VALUES} values"):
        parse(body)


def test_a_prompt_of_more_ids_than_that_is_read() -> None:
    assert len(parse(json.dumps({"prompt": [7] * MOST_VALUES * 2}).encode())["prompt"]) == MOST_VALUES * 2


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": [5, 6, 7], "max_tokens": 3},
        {"prompt": [[5, 6, 7], [8]], "seed": 1},
        {"prompt": "text", "max_tokens": None},
        {"prompt": [5] * 1200, "overflow": "truncate_middle", "max_tokens": 990},
        {"messages": [{"role": "user", "content": "hello"}]},
        {"prompt": [5] * 1200},
        {"prompt": [5, 500]},
        {"prompt": [5, True]},
        {"prompt": []},
        {"prompt": {}},
        {"prompt": ["a", [1]]},
        {"prompt": [[1], [2, 0.5]]},
        {"prompt": [[1], "a"]},
        {"stream": 1, "prompt": "a"},
        [1],
    ],
)
def test_the_outcome_is_that_of_a_small_body(upstream: FakeUpstream, gateway: Running, body: object) -> None:
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    answer = reply_json({"choices": [], "usage": {"prompt_tokens": 1}})
    upstream.answers |= {"/v1/completions": answer, "/v1/chat/completions": answer}
    with running(settings_for(upstream, model={"vocab_size": 500})) as small:
        outcomes = []
        for one in (small, gateway):
            before = upstream.generations
            got = one.post(body, path)
            sent = json.loads(upstream.requests[-1].body) if upstream.generations > before else None
            headers = {name: value for name, value in got.headers.items() if name.startswith("x-wave")}
            outcomes.append((got.status_code, got.json(), headers, sent))
    assert outcomes[0] == outcomes[1]


def test_what_is_not_json_is_refused_as_in_a_small_body(gateway: Running) -> None:
    for body in (b"{", b'{"a": nope}'):
        answer = httpx.post(f"{gateway.url}/v1/completions", content=body, headers={"content-type": JSON})
        assert answer.status_code == 400
        assert answer.json()["error"]["message"].startswith("The body is not valid JSON: ")
    assert httpx.post(f"{gateway.url}/v1/completions", content=b"{}").status_code == 415


def test_a_large_text_has_the_same_tokens(checkpoint: Path) -> None:
    texts = ["naïve 日本語 🙂 <|end|>", "x y" * 500]

    async def both(heavy: Worker) -> None:
        path = checkpoint / "tokenizer.json"
        near, far = LocalTokenizer(path), LocalTokenizer(path, heavy)
        for special in (True, False):
            found = await far.encode_all(texts, add_special_tokens=special)
            assert [list(one) for one in found] == [near.encode(text, add_special_tokens=special) for text in texts]

    run(both)


def test_a_caller_who_gives_up_leaves_the_worker_usable() -> None:
    async def work(heavy: Worker) -> None:
        bodies = Bodies(heavy)
        long = json.dumps({"prompt": list(range(300_000))}).encode()
        waiting = [asyncio.create_task(bodies.parse(long, JSON)) for _ in range(3)]
        await asyncio.sleep(0.05)
        waiting[0].cancel()
        assert await bodies.parse(b'{"a": 1}', JSON) == {"a": 1}
        done = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(done[0], asyncio.CancelledError)
        assert [len(one["prompt"]) for one in done[1:]] == [300_000] * 2

    run(work)


def test_a_worker_that_is_killed_is_a_503_and_another_takes_its_place() -> None:
    async def work(heavy: Worker) -> None:
        bodies = Bodies(heavy)
        await bodies.parse(b'{"a": 1}', JSON)
        os.kill(heavy.pid, signal.SIGSTOP)
        task = asyncio.create_task(bodies.parse(b'{"a": 2}', JSON))
        await asyncio.sleep(0.05)
        os.kill(heavy.pid, signal.SIGKILL)
        with pytest.raises(ApiError) as caught:
            await task
        assert (caught.value.status, caught.value.headers["retry-after"]) == (503, "1")
        assert await bodies.parse(b'{"a": 3}', JSON) == {"a": 3}

    run(work)


def test_the_worker_ends_with_the_gateway(upstream: FakeUpstream) -> None:
    with running(settings_for(upstream, large_body_bytes=1)) as one:
        one.post({"prompt": "a"})
        process = Path(f"/proc/{one.gateway.workers[0].pid}")
        assert process.exists()
    assert not process.exists()


def test_others_are_answered_while_a_large_body_is_read(upstream: FakeUpstream) -> None:
    with (
        running(settings_for(upstream, model={"max_sequences": 4_000})) as one,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        body = {"prompt": [[123_456] * 200 for _ in range(1_000)]}
        assert one.post(body).status_code == 200
        worker = one.gateway.workers[0].pid
        os.kill(worker, signal.SIGSTOP)
        try:
            waiting = pool.submit(one.post, body)
            for _ in range(5):
                assert httpx.get(f"{one.url}/health").status_code == 200
            assert one.post({"prompt": [5]}).status_code == 200
            assert not waiting.done()
        finally:
            os.kill(worker, signal.SIGCONT)
        assert waiting.result().status_code == 200
