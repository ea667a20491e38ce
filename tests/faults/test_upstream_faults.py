"""Every fault of an upstream ends in OpenAI's shape, and every client that leaves ends its request there."""

import time

import httpx
import openai
import pytest
from fake_upstream import DONE, FakeUpstream, Handler, delta, hang_up, reply, reply_json, stream
from running import Running, running, sdk, settings_for

BODY = {"model": "fake", "prompt": "hello", "max_tokens": 5}


async def never(connection) -> None:
    await connection.gone()


@pytest.mark.parametrize(
    "answer",
    [
        stream(delta("a"), delta("b"), end=False),
        stream(delta("a"), delta("b")[:9], end=False),
        stream(delta("a"), delta("b")),
        stream(delta("a"), delta("b"), b"data: {half\n\n", DONE),
        stream(delta("a"), delta("b"), b'data: {"error": {"message": "lost", "code": 500}}\n\n', DONE),
        stream(delta("a"), delta("b"), never),
    ],
    ids=["cut", "cut inside an event", "no done", "not JSON", "the engine's own error", "silence"],
)
def test_a_fault_mid_stream_ends_it_with_an_error_event(upstream: FakeUpstream, answer: Handler) -> None:
    upstream.answers["/v1/completions"] = answer
    with running(settings_for(upstream, timeouts={"silence": 0.5})) as one:
        texts = []
        with pytest.raises(openai.APIError) as caught:
            texts.extend(chunk.choices[0].text for chunk in sdk(one).completions.create(**BODY, stream=True))
        assert caught.value.body["type"] == "server_error"
        content = one.post(BODY | {"stream": True}).content
        assert content.startswith(delta("a"))
        *_, last, end = content.split(b"\n\n")
        assert last.startswith(b'data: {"error": {"message": ')
        assert end == b""


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (hang_up, 502, "upstream_died"),
        (never, 504, "upstream_timeout"),
        (reply(b"<html>", "500 Internal Server Error", "text/html"), 500, "upstream_error"),
        (reply_json({"error": {"message": "dead", "type": "EngineDeadError", "code": 503}}, "503 Gone"), 503, None),
        (reply(b"not json"), 502, "upstream_malformed"),
        (reply_json({"error": {"message": "no", "code": 401}}, "401 Unauthorized"), 502, "upstream_refused"),
    ],
    ids=["hangs up", "never answers", "500", "503", "malformed", "401"],
)
def test_a_fault_before_the_first_byte_is_a_plain_error(
    upstream: FakeUpstream, answer: Handler, status: int, code: str | None, streaming: bool
) -> None:
    upstream.answers["/v1/completions"] = answer
    with running(settings_for(upstream, timeouts={"silence": 0.5})) as one:
        got = one.post(BODY | {"stream": streaming})
        assert got.status_code == status
        assert got.json()["error"]["type"] == "server_error"
        assert got.headers["x-wave-context-tokens"] == "6"
        if code is not None:
            assert got.json()["error"]["code"] == code


def test_a_fault_after_a_keep_alive_comment_is_an_error_event(upstream: FakeUpstream) -> None:
    upstream.answers["/v1/completions"] = never
    with running(settings_for(upstream, timeouts={"silence": 0.5, "keep_alive": 0.1})) as one:
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
        upstream._start()
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


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "stream"])
def test_a_client_that_leaves_before_the_answer_ends_the_upstreams_request(
    gateway: Running, upstream: FakeUpstream, streaming: bool
) -> None:
    upstream.answers["/v1/completions"] = upstream.wait_for_abort
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{gateway.url}/v1/completions", json=BODY | {"stream": streaming}, timeout=0.3)
    assert upstream.aborted.wait(10)
    wait_idle(gateway)


def test_a_client_that_leaves_mid_stream_ends_the_upstreams_request(gateway: Running, upstream: FakeUpstream) -> None:
    upstream.answers["/v1/completions"] = stream(delta("a"), upstream.wait_for_abort)
    with httpx.stream("POST", f"{gateway.url}/v1/completions", json=BODY | {"stream": True}) as answer:
        assert next(answer.iter_lines()).startswith("data: ")
    assert upstream.aborted.wait(10)
    wait_idle(gateway)


def wait_idle(gateway: Running) -> None:
    """The gauges go back to zero and the abort is counted."""
    deadline = time.monotonic() + 10
    while 'wave_aborted_total{model="fake"} 1.0' not in (text := httpx.get(f"{gateway.url}/metrics").text):
        assert time.monotonic() < deadline, text
    assert 'wave_in_flight_requests{model="fake"} 0.0' in text
    assert gateway.gateway.upstreams[0].in_flight == 0
