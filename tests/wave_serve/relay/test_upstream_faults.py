"""Every fault of an upstream ends in OpenAI's shape, and every client that leaves ends its request there."""

import asyncio
import time
from collections.abc import Iterator

import httpx
import openai
import pytest
from helpers.cancelling import at_rest, until
from helpers.fake_upstream import DONE, Connection, FakeUpstream, Handler, delta, never, raw, reply, reply_json, stream
from helpers.running import Running, running, sdk, settings_for
from helpers.upstream_faults import (
    BEFORE_AN_ANSWER,
    BODY,
    CHUNKED,
    HEAD,
    MID_STREAM,
    WHOLE_ONLY,
    Gateways,
    patient_and_hasty,
)


@pytest.fixture(scope="module")
def faulty() -> Iterator[tuple[FakeUpstream, Gateways]]:
    """A fake upstream and the gateways that meet its faults."""
    with FakeUpstream() as fake, patient_and_hasty(fake) as gateways:
        yield fake, gateways


@pytest.mark.parametrize("fault", MID_STREAM)
def test_a_fault_mid_stream_ends_it_with_an_error_event(faulty: tuple[FakeUpstream, Gateways], fault: str) -> None:
    upstream, gateways = faulty
    one = gateways.for_fault(fault)
    upstream.answers["/v1/completions"], code = MID_STREAM[fault]
    texts = []
    with pytest.raises(openai.APIError) as caught:
        texts.extend(chunk.choices[0].text for chunk in sdk(one).completions.create(**BODY, stream=True))
    assert texts[0] == "a"
    assert caught.value.body["type"] == "server_error"
    assert caught.value.code == code
    content = one.post(BODY | {"stream": True}).content
    assert content.startswith(delta("a"))
    *_, last, end = content.split(b"\n\n")
    assert last.startswith(b'data: {"error": {"message": ')
    assert end == b""
    at_rest(one, upstream)


@pytest.mark.parametrize(
    ("fault", "streaming"),
    [(fault, streaming) for fault in BEFORE_AN_ANSWER for streaming in (False, True)]
    + [(fault, False) for fault in WHOLE_ONLY],
)
def test_a_fault_before_the_answer_is_a_plain_error(
    faulty: tuple[FakeUpstream, Gateways], fault: str, streaming: bool
) -> None:
    upstream, gateways = faulty
    one = gateways.for_fault(fault)
    upstream.answers["/v1/completions"], status, code = (BEFORE_AN_ANSWER | WHOLE_ONLY)[fault]
    asked = upstream.generations
    got = one.post(BODY | {"stream": streaming})
    assert got.status_code == status
    error = got.json()["error"]
    assert error["type"] == ("server_error" if status >= 500 else "invalid_request_error")
    assert error["code"] == code
    assert set(error) == {"message", "type", "param", "code"}
    assert got.headers["x-wave-context-tokens"] == "6"
    assert upstream.generations == asked + 1
    at_rest(one, upstream)


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "stream"])
def test_a_slow_answer_within_the_deadline_completes(faulty: tuple[FakeUpstream, Gateways], streaming: bool) -> None:
    upstream, gateways = faulty
    one = gateways.hasty
    slow = (0.4, delta("a"), 0.4, delta("b"), 0.4, DONE)
    whole = raw(0.4, HEAD + b"content-length: 7\r\n\r\n", 0.4, b'{"a"', 0.4, b":1}")
    upstream.answers["/v1/completions"] = stream(*slow) if streaming else whole
    got = one.post(BODY | {"stream": streaming})
    assert got.content == (delta("a") + delta("b") + DONE if streaming else b'{"a":1}')
    at_rest(one, upstream)


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "stream"])
def test_an_upstream_that_only_pretends_to_work_ends_at_the_generations_deadline(
    upstream: FakeUpstream, streaming: bool
) -> None:
    async def drips(connection: Connection) -> None:
        while True:
            await connection.chunk(b": ping\n\n" if streaming else b" ")
            await asyncio.sleep(0.05)

    upstream.answers["/v1/completions"] = stream(drips) if streaming else raw(HEAD + CHUNKED, drips)
    with running(settings_for(upstream, timeouts={"silence": 5.0, "generation": 0.5})) as one:
        got = one.post(BODY | {"stream": streaming})
        assert "generation_timeout" in got.text
        assert got.status_code == (200 if streaming else 504)
        at_rest(one, upstream)


def test_a_client_that_reads_nothing_does_not_hold_a_generation_past_its_deadline(upstream: FakeUpstream) -> None:
    upstream.answers["/v1/completions"] = stream(*[delta("x" * 2**16)] * 2000, never)
    with (
        running(settings_for(upstream, timeouts={"generation": 1.0})) as one,
        httpx.stream("POST", f"{one.url}/v1/completions", json=BODY | {"stream": True}),
    ):
        until(lambda: upstream.open_generations == 1)
        at_rest(one, upstream)


def test_a_fault_after_a_keep_alive_comment_is_an_error_event(upstream: FakeUpstream) -> None:
    upstream.answers["/v1/completions"] = never
    with running(settings_for(upstream, timeouts={"silence": 1.0, "keep_alive": 0.1})) as one:
        answer = one.post(BODY | {"stream": True})
    assert answer.status_code == 200
    assert answer.content.startswith(b": keep-alive\n\n")
    assert b'"code": "upstream_timeout"' in answer.content


def test_an_engines_refusal_keeps_its_status_in_openais_shape(gateway: Running, upstream: FakeUpstream) -> None:
    said = "1 validation error:\n  {'type': 'x', 'loc': 'body.top_p', 'msg': 'Input should be a number', 'input': 'y'}"
    refusal = {"error": {"message": said, "type": "Bad Request", "param": "body.top_p", "code": 400}}
    upstream.answers["/v1/completions"] = reply_json(refusal, "400 Bad Request")
    for streaming in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            sdk(gateway).completions.create(**BODY, stream=streaming)
        assert caught.value.body == {
            "message": "top_p: Input should be a number, got 'y'",
            "type": "invalid_request_error",
            "param": "top_p",
            "code": None,
        }


def test_an_upstream_that_is_down_is_a_503_until_it_is_back(upstream: FakeUpstream) -> None:
    with running(settings_for(upstream)) as one:
        upstream.stop()
        one.wait(503)
        answer = one.post(BODY)
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "5"
        assert answer.headers["x-wave-context-limit"] == "1000"
        assert answer.json()["error"]["code"] == "upstream_unavailable"
        ready = httpx.get(f"{one.url}/ready")
        assert upstream.url in ready.json()["error"]["message"]
        assert ready.headers["retry-after"] == "5"
        upstream.start()
        one.wait(200)
        assert one.post(BODY).status_code == 200


def test_a_gateway_whose_upstream_was_never_there_says_so(upstream: FakeUpstream) -> None:
    upstream.stop()
    with running(settings_for(upstream), ready=False) as one:
        with pytest.raises(openai.InternalServerError) as caught:
            sdk(one).completions.create(**BODY)
        assert caught.value.status_code == 503
        assert httpx.get(f"{one.url}/health").status_code == 200


@pytest.mark.parametrize(
    ("models", "said"),
    [
        (reply_json({"data": [{"id": "other"}]}), "it does not serve fake; it serves other"),
        (reply(b"<html>"), "its /v1/models answers something else than models"),
    ],
)
def test_an_upstream_with_another_model_is_not_ready(upstream: FakeUpstream, models: Handler, said: str) -> None:
    upstream.answers["/v1/models"] = models
    with running(settings_for(upstream), ready=False) as one:
        deadline = time.monotonic() + 10
        while said not in (text := httpx.get(f"{one.url}/ready").text):
            assert time.monotonic() < deadline, text


def test_one_late_health_answer_does_not_make_an_upstream_unready(upstream: FakeUpstream) -> None:
    late = []

    async def late_once(connection) -> None:
        late.append(connection)
        await (never if len(late) == 1 else reply(b"{}"))(connection)

    with running(settings_for(upstream, timeouts={"poll_answer": 0.2})) as one:
        upstream.answers["/health"] = late_once
        while len(late) < 3:
            assert httpx.get(f"{one.url}/ready").status_code == 200
