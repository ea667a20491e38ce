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
    assert found["wave.context.extrapolation_factor"] == pytest.approx(0.06)
    assert attributes(refused)["error.type"] == "context_length_exceeded"
    assert refused.parent_span_id == b""
    (asked,) = [span for span in collector.spans() if span.kind == CLIENT]
    assert asked.parent_span_id == served.span_id
    assert [event.name for event in asked.events] == ["first token"]
    assert served.start_time_unix_nano <= asked.start_time_unix_nano <= asked.end_time_unix_nano
    assert asked.end_time_unix_nano <= served.end_time_unix_nano


def context_of(span: object) -> dict:
    """The attributes about a request's context, without their prefix."""
    found = attributes(span).items()
    return {name.removeprefix("wave.context."): value for name, value in found if name.startswith("wave.context.")}


def test_spans_tell_how_far_a_context_reaches_and_what_was_cut(upstream: FakeUpstream, collector: Collector) -> None:
    model = {"max_tokens": 200, "validated_length": 150, "clamp_max_tokens": True}
    with running(settings_for(upstream, model=model, tracing={"endpoint": collector.url})) as one:
        one.post(BODY)
        one.post(BODY | {"prompt": "x" * 119, "max_tokens": 500})
        one.post(BODY | {"prompt": "x" * 299, "overflow": "truncate_head"})
        one.post(BODY | {"prompt": "x" * 299})
        one.post(BODY, "/v1/context")
    near, clamped, cut, refused, asked = [context_of(span) for span in collector.spans() if span.kind == SERVER]
    limits = {"limit": 200, "train_length": 100}
    assert near == limits | {"tokens": 6, "extrapolation_factor": 0.06, "zone": "trained"}
    assert clamped == limits | {
        "tokens": 120,
        "extrapolation_factor": 1.2,
        "zone": "hard",
        "clamped_max_tokens": 80,
    }
    assert cut == limits | {
        "tokens": 195,
        "extrapolation_factor": 1.95,
        "zone": "hard",
        "truncated": "truncate_head",
        "original_tokens": 300,
    }
    assert refused == limits | {"tokens": 300, "extrapolation_factor": 3.0}
    assert asked["tokens"] == 6


USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 3,
    "total_tokens": 10,
    "prompt_tokens_details": {"cached_tokens": 4},
}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("path", "operation"), [("/v1/completions", "text_completion"), ("/v1/chat/completions", "chat")]
)
def test_who_asks_for_the_current_conventions_gets_an_inference_span_by_them(
    upstream: FakeUpstream,
    collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    operation: str,
    streamed: bool,
) -> None:
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "http, gen_ai_latest_experimental")
    ended = {"choices": [{"index": 0, "text": "a", "finish_reason": "length"}], "usage": USAGE}
    answer = stream(delta("a"), b"data: " + json.dumps(ended).encode() + b"\n\n", DONE)
    upstream.answers[path] = answer if streamed else reply_json(ended)
    upstream.answers["/v1/chat/completions/render"] = reply_json({"token_ids": [1] * 6})
    body = {"max_tokens": 3, "temperature": 0.5, "top_k": 4, "seed": 9, "n": 2, "stop": ["x"], "stream": streamed}
    body |= {"messages": [{"role": "user", "content": "hello"}]} if operation == "chat" else {"prompt": "hello"}
    with running(settings_for(upstream, tracing={"endpoint": collector.url})) as one:
        assert one.post(body, path).status_code == 200
    (server,) = [span for span in collector.spans() if span.kind == SERVER]
    (inference,) = [span for span in collector.spans() if span.kind == CLIENT]
    assert not any(name.startswith("gen_ai.") for name in attributes(server))
    assert inference.name == f"{operation} fake"
    found = attributes(inference)
    (reason,) = found.pop("gen_ai.response.finish_reasons").values
    assert reason.string_value == "length"
    assert ("gen_ai.response.time_to_first_chunk" in found) == streamed
    assert found.pop("gen_ai.response.time_to_first_chunk", 0.0) >= 0
    assert found.pop("gen_ai.request.stream", False) == streamed
    assert found == {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "fake",
        "gen_ai.request.max_tokens": 3,
        "gen_ai.request.choice.count": 2,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_k": 4,
        "gen_ai.request.seed": 9,
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "server.address": "127.0.0.1",
        "server.port": upstream.port,
    }


def test_an_inference_that_fails_says_so_in_its_span(
    upstream: FakeUpstream, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "gen_ai_latest_experimental")
    upstream.answers["/v1/completions"] = stream(delta("a"), end=False)
    with running(settings_for(upstream, tracing={"endpoint": collector.url})) as one:
        one.post(BODY | {"stream": True})
    (inference,) = [span for span in collector.spans() if span.kind == CLIENT]
    assert attributes(inference)["error.type"] == "upstream_died"
    assert inference.status.code == 2  # OTLP's number of an error


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
        'wave_prompt_tokens_by_zone_total{model="fake",zone="trained"} 12.0',
        'wave_prompt_tokens_by_zone_total{model="fake",zone="hard"} 351.0',
        'wave_time_to_first_token_seconds_count{model="fake"} 1.0',
        'wave_queue_seconds_count{model="fake"} 3.0',
        'wave_overhead_seconds_count{model="fake"} 3.0',
        'wave_rejected_total{code="context_length_exceeded"} 1.0',
        'wave_in_flight_requests{model="fake"} 0.0',
    ):
        assert line in text
    (first,) = [line for line in text.splitlines() if line.startswith("wave_time_to_first_token_seconds_sum")]
    assert float(first.rsplit(" ", 1)[1]) >= 0.05  # a comment is no token


def test_counters_of_a_model_are_there_before_their_first_event(gateway: Running) -> None:
    text = httpx.get(f"{gateway.url}/metrics").text
    for name in ("aborted", "retries", "count_mismatches"):
        assert f'wave_{name}_total{{model="fake"}} 0.0' in text


PROMPT, ANSWER = "canaryprompt", "canaryanswer"
KEY, WRONG_KEY = "sk-wave-canarykey-0123456789abcdef", "sk-wave-canarywrong-0123456789abcdef"
IDS = [731459260457, 731459260458, 731459260459]  # long, or a random id would hold their digits by chance
CANARIES = ("canary", "7314592604", "sk-wave")
ECHO = {"error": {"message": f"bad: {PROMPT} {IDS}", "type": "BadRequestError", "param": PROMPT, "code": 400}}


@pytest.mark.parametrize("conventions", ["", "gen_ai_latest_experimental"])
def test_nothing_of_prompt_answer_key_or_token_ids_is_in_logs_metrics_or_spans(
    upstream: FakeUpstream,
    collector: Collector,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    conventions: str,
) -> None:
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", conventions)
    keys = tmp_path / "keys.yaml"
    keys.write_text(f"keys:\n{entry_for(KEY, 'alice', {})}\n")
    answer = {"id": ANSWER, "model": ANSWER, "choices": [{"index": 0, "text": ANSWER, "finish_reason": ANSWER}]}
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
        BODY | {"prompt": PROMPT, "user": PROMPT, "stop": [PROMPT]},
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
