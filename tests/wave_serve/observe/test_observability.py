"""Logs, metrics and spans say what happened to each request, and nothing of what was in it."""

import contextlib
import io
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from helpers.fake_upstream import DONE, FakeUpstream, delta, hang_up, never, reply, reply_json, stream
from helpers.running import Running, running, settings_for
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from wave_serve.keys.file import entry_for
from wave_serve.logs import JsonLines
from wave_serve.observe.tracing import tracing_from
from wave_serve.settings import TracingSettings

BODY = {"model": "fake", "prompt": "hello", "max_tokens": 5}
SERVER, CLIENT, INTERNAL = 2, 3, 1  # OTLP's numbers of span kinds
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Collector:
    """An OTLP/HTTP collector: the bodies that were sent to it."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                outer.bodies.append(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def spans(self) -> list:
        requests = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        resources = [resource for request in requests for resource in request.resource_spans]
        return [span for resource in resources for scope in resource.scope_spans for span in scope.spans]


@pytest.fixture
def collector() -> Iterator[Collector]:
    one = Collector()
    thread = threading.Thread(target=one.server.serve_forever)
    thread.start()
    yield one
    one.server.shutdown()
    thread.join()
    one.server.server_close()


@contextlib.contextmanager
def written_logs(*names: str) -> Iterator[io.StringIO]:
    """What these loggers write, down to DEBUG, in the form in which we write it."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonLines())
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    try:
        yield out
    finally:
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate


def attributes(span: object) -> dict:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


def test_a_request_is_a_span_below_the_clients_and_above_the_upstreams(
    upstream: FakeUpstream, collector: Collector
) -> None:
    upstream.answers["/v1/completions"] = stream(delta("a"), DONE)
    with running(settings_for(upstream, tracing={"endpoint": collector.url})) as one:
        one.post(BODY | {"stream": True}, headers={"traceparent": PARENT, "tracestate": "a=b", "x-request-id": "r1"})
        one.post(BODY | {"prompt": "x" * 2000})
        httpx.get(f"{one.url}/health")
    served, refused = [span for span in collector.spans() if span.kind == SERVER]
    assert served.name == "POST /v1/completions"
    assert f"00-{served.trace_id.hex()}-{served.parent_span_id.hex()}-01" == PARENT
    (sent,) = [request.headers for request in upstream.requests if request.path == "/v1/completions"]
    assert sent["traceparent"] == f"00-{served.trace_id.hex()}-{served.span_id.hex()}-01"
    assert sent["tracestate"] == "a=b"
    found = attributes(served)
    assert found["wave.request_id"] == "r1"
    assert found["http.response.status_code"] == 200
    assert found["gen_ai.usage.input_tokens"] == 6
    assert found["wave.extrapolation_factor"] == pytest.approx(0.06)
    assert attributes(refused)["error.type"] == "context_length_exceeded"
    assert refused.parent_span_id == b""
    (asked,) = [span for span in collector.spans() if span.kind == CLIENT]
    assert asked.parent_span_id == served.span_id
    assert [event.name for event in asked.events] == ["first token"]
    assert served.start_time_unix_nano <= asked.start_time_unix_nano <= asked.end_time_unix_nano
    assert asked.end_time_unix_nano <= served.end_time_unix_nano


def test_spans_are_off_until_someone_names_a_collector() -> None:
    assert tracing_from(TracingSettings(), {}) is None
    assert tracing_from(TracingSettings(endpoint="http://collector:4318"), {"OTEL_SDK_DISABLED": "true"}) is None
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        assert tracing_from(TracingSettings(), {name: "http://collector:4318"}) is not None


def test_a_collector_that_is_down_costs_no_request(upstream: FakeUpstream) -> None:
    with running(settings_for(upstream, tracing={"endpoint": "http://127.0.0.1:9", "flush": 0.2})) as one:
        assert one.post(BODY).status_code == 200


def test_a_usable_request_id_is_in_answer_log_and_upstream_request(gateway: Running, upstream: FakeUpstream) -> None:
    with written_logs("wave_serve") as out:
        answer = gateway.post(BODY, headers={"x-request-id": "mine"})
        httpx.get(f"{gateway.url}/health")  # answered after the line has been written
    assert answer.headers["x-request-id"] == upstream.requests[-1].headers["x-request-id"] == "mine"
    (line,) = [line for line in map(json.loads, out.getvalue().splitlines()) if line.get("request_id") == "mine"]
    assert line["path"] == "/v1/completions"
    assert line["overhead_s"] >= 0


def test_metrics_of_one_request_of_each_kind(gateway: Running, upstream: FakeUpstream) -> None:
    gateway.post(BODY)
    gateway.post(BODY | {"prompt": "x" * 350})
    upstream.answers["/v1/completions"] = stream(b": ping\n\n", 0.05, delta("a"), DONE)
    gateway.post(BODY | {"stream": True})
    gateway.post(BODY | {"prompt": "x" * 2000})
    text = httpx.get(f"{gateway.url}/metrics").text
    for line in (
        'wave_prompt_tokens_by_factor_total{factor_up_to="1",model="fake"} 12.0',
        'wave_prompt_tokens_by_factor_total{factor_up_to="4",model="fake"} 351.0',
        'wave_time_to_first_token_seconds_count{model="fake"} 1.0',
        'wave_queue_seconds_count{model="fake"} 3.0',
        'wave_overhead_seconds_count{model="fake"} 3.0',
        'wave_rejected_total{code="context_length_exceeded"} 1.0',
        'wave_in_flight_requests{model="fake"} 0.0',
    ):
        assert line in text
    (first,) = [line for line in text.splitlines() if line.startswith("wave_time_to_first_token_seconds_sum")]
    assert float(first.rsplit(" ", 1)[1]) >= 0.05  # a comment is no token


PROMPT, ANSWER = "canaryprompt", "canaryanswer"
KEY, WRONG_KEY = "sk-wave-canarykey-0123456789abcdef", "sk-wave-canarywrong-0123456789abcdef"
IDS = [731459260457, 731459260458, 731459260459]  # long, or a random id would hold their digits by chance
CANARIES = ("canary", "7314592604", "sk-wave")
ECHO = {"error": {"message": f"bad: {PROMPT} {IDS}", "type": "BadRequestError", "param": PROMPT, "code": 400}}


def test_nothing_of_prompt_answer_key_or_token_ids_is_in_logs_metrics_or_spans(
    upstream: FakeUpstream, collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / "keys.yaml"
    keys.write_text(f"keys:\n{entry_for(KEY, 'alice', {})}\n")
    answer = {"choices": [{"index": 0, "text": ANSWER}]}
    upstream_answers = [
        reply_json(answer),
        stream(delta(ANSWER), DONE),
        stream(delta(ANSWER), end=False),
        stream(delta(ANSWER), b"data: {" + ANSWER.encode() + b"\n\n"),
        stream(delta(ANSWER), b"data: " + json.dumps(ECHO).encode() + b"\n\n"),
        reply_json(ECHO, "400 Bad Request"),
        reply_json(ECHO, "401 Unauthorized"),
        reply_json(ECHO, f"500 {PROMPT}"),
        reply(ANSWER.encode()),
        hang_up,
        never,
    ]
    chat = {"model": "fake", "messages": [{"role": "user", "content": PROMPT, "name": PROMPT}], "max_tokens": 5}
    bodies = [
        BODY | {"prompt": PROMPT, "user": PROMPT},
        BODY | {"prompt": IDS},
        BODY | {"prompt": [PROMPT, PROMPT], "stream": True},
    ]
    bad = [
        BODY | {"prompt": [PROMPT * 200], "overflow": PROMPT},
        BODY | {"prompt": [*IDS, PROMPT]},
        BODY | {"prompt": IDS * 500},
        BODY | {"prompt": PROMPT * 200},
        BODY | {"prompt": {PROMPT: 1}},
        BODY | {"model": PROMPT},
        BODY | {"max_tokens": PROMPT},
        BODY | {"prompt": "\ud800" + PROMPT},
        [PROMPT],
    ]
    auth = {"authorization": f"Bearer {KEY}"}
    settings = settings_for(
        upstream,
        auth={"keys_file": str(keys)},
        tracing={"endpoint": collector.url},
        timeouts={"silence": 0.3},
        max_body_bytes=10_000,
    )
    statuses: set[int] = set()
    with written_logs("wave_serve", "uvicorn", "asyncio") as out, running(settings) as one:

        def send(body: object, path: str = "/v1/completions", headers: dict = auth) -> None:
            content = json.dumps(body).encode()
            headers = headers | {"content-type": "application/json"}
            statuses.add(httpx.post(one.url + path, content=content, headers=headers, timeout=10).status_code)

        for said in upstream_answers:
            upstream.answers["/v1/completions"] = upstream.answers["/v1/chat/completions"] = said
            for body in bodies:
                send(body)
            send(chat, "/v1/chat/completions")
        for path in ("/v1/completions", "/tokenize", "/detokenize", "/v1/context"):
            for body in bad:
                send(body, path)
        send(BODY | {"prompt": PROMPT}, headers={"authorization": f"Bearer {WRONG_KEY}"})
        send(BODY | {"prompt": PROMPT}, headers={"authorization": WRONG_KEY})
        send(BODY | {"prompt": PROMPT * 1000})
        send(BODY, f"/v1/{PROMPT}?prompt={PROMPT}")
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{one.url}/v1/completions", json=bodies[0], headers=auth, timeout=0.1)
        upstream.answers["/tokenize"] = reply_json(ECHO, "400 Bad Request")
        send(bodies[0])
        monkeypatch.setattr(one.gateway, "model_of", lambda payload, _exchange: {}[str(payload)])
        send(bodies[0])
        seen = httpx.get(f"{one.url}/metrics").text
    assert {200, 400, 401, 404, 413, 500, 502, 504} <= statuses
    assert len([span for span in collector.spans() if span.kind == SERVER]) > 80
    written = out.getvalue()
    assert "KeyError" in written
    assert "499" in written
    for place in (written, seen, b"".join(collector.bodies).decode("latin-1")):
        assert place
        for canary in CANARIES:
            assert canary not in place
