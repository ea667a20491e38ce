"""Real answers, one of every kind, have nothing that the OpenAPI document does not describe, and all that it does."""

import contextlib
import http.client
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from helpers.described import Described
from helpers.fake_upstream import (
    DONE,
    Connection,
    FakeUpstream,
    Handler,
    hang_up,
    never,
    raw,
    reply,
    reply_json,
    stream,
    when,
)
from helpers.running import Running, running, settings_for

from wave_serve.api.docs import OPENAPI_PATH
from wave_serve.api.openapi.document import document
from wave_serve.api.openapi.errors import STATUSES, codes_of
from wave_serve.api.openapi.schemas import answers as own_schemas
from wave_serve.headers import Header
from wave_serve.keys.file import entry_for

COMPLETIONS, CHAT, CONTEXT = "/v1/completions", "/v1/chat/completions", "/v1/context"
RESPONSES, MESSAGES, COUNT = "/v1/responses", "/v1/messages", "/v1/messages/count_tokens"
JSON = {"content-type": "application/json"}
BODY = {"model": "fake", "prompt": "hello", "max_tokens": 5}
TURNS = [{"role": "user", "content": "y" * 60}, {"role": "assistant", "content": "z" * 60}] * 2
TALK = {"model": "fake", "messages": [*TURNS, {"role": "user", "content": "?"}], "max_tokens": 5}
ITEMS = {"model": "fake", "input": TALK["messages"], "max_output_tokens": 5}
GENERATIONS = {COMPLETIONS: BODY, CHAT: TALK, RESPONSES: ITEMS, MESSAGES: TALK}
COUNTED = (COMPLETIONS, CHAT, RESPONSES, MESSAGES, COUNT, CONTEXT, "/tokenize", "/detokenize")
NOBODY = "redis://127.0.0.1:1/0"  # nothing listens there
KEYS = {
    "all": {"requests_per_minute": 10_000, "tokens_per_minute": 60_000, "max_context": 800},
    "plain-only": {"models": ("plain",)},
    "one-a-minute": {"requests_per_minute": 1},
    "one-at-a-time": {"concurrency": 1},
}
CACHE = b'vllm:cache_config_info{block_size="16",num_gpu_blocks="100"} 1.0\n'
USAGE = {"prompt_tokens": 6, "completion_tokens": 1, "total_tokens": 7, "prompt_tokens_details": None}
SAID = {"id": "x", "object": "x", "created": 1, "model": "fake"}
RESPONSE = {"id": "r", "object": "response", "model": "fake", "output": [], "status": "completed"}
MESSAGE = {"id": "m", "type": "message", "role": "assistant", "content": [], "stop_reason": "max_tokens"}
NO_TEMPLATE = (
    "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template."
)


def secret(name: str) -> str:
    return f"sk-wave-{name:-<40}"


async def generation(connection: Connection) -> None:
    """Answers as vLLM does, with one token."""
    chat, streams = b'"messages"' in connection.body, b'"stream":true' in connection.body
    said = {"role": "assistant", "content": "a"}
    words = {("delta" if streams else "message"): said} if chat else {"text": "a"}
    choices = [{"index": 0, "finish_reason": "length", "logprobs": None, **words}]
    whole = SAID | {"choices": choices, "usage": None if streams else USAGE}
    last = SAID | {"choices": [], "usage": USAGE}
    events = [b"data: " + json.dumps(each).encode() + b"\n\n" for each in (whole, last)]
    await (stream(*events, DONE) if streams else reply_json(whole))(connection)


async def typed(connection: Connection) -> None:
    """Answers as vLLM does in the dialects whose events have a type."""
    counts = {"input_tokens": 6, "output_tokens": 1}
    if connection.path == RESPONSES:
        whole = RESPONSE | {"usage": counts | {"total_tokens": 7}}
        events = [{"type": "response.created", "response": RESPONSE | {"usage": None}}]
        events.append({"type": "response.completed", "response": whole})
    else:
        whole = MESSAGE | {"usage": counts}
        events = [{"type": "message_start", "message": whole}, {"type": "message_delta", "usage": counts}]
        events.append({"type": "message_stop"})
    streams = b'"stream":true' in connection.body
    lines = [b"event: %s\ndata: %s\n\n" % (each["type"].encode(), json.dumps(each).encode()) for each in events]
    await (stream(*lines) if streams else reply_json(whole))(connection)


ANSWERS = {COMPLETIONS: generation, CHAT: generation, RESPONSES: typed, MESSAGES: typed}


@contextlib.contextmanager
def before(keys: Path | None, **options: object) -> Iterator[tuple[FakeUpstream, Running, httpx.Client]]:
    """A fake upstream with two models, a gateway before it and a client of that."""
    with FakeUpstream() as fake:
        fake.answers |= {
            **ANSWERS,
            "/detokenize": reply_json({"prompt": "a"}),
            "/metrics": reply(CACHE, content_type="text/plain"),
            "/v1/models": reply_json({"data": [{"id": name, "max_model_len": 1000} for name in ("fake", "plain")]}),
        }
        trusted = {"zones": {"validated": "warn", "hard": "reject"}, "validated_length": 500, "max_tokens": 900}
        given = {
            "models": {
                "fake": trusted | {"train_length": 100, "max_extrapolation": 9, "default_max_completion_tokens": 20},
                "plain": {"clamp_max_tokens": True},
            },
            "upstreams": [{"base_url": fake.url, "models": ["fake", "plain"], "keeps_responses": True}],
            "auth": {"keys_file": None if keys is None else str(keys), "protect_metrics": True},
            "routing": {"tries": 1, "eject_after": 1000},
        }
        with (
            running(settings_for(fake, **(given | options))) as one,
            httpx.Client(base_url=one.url, timeout=20) as client,
        ):
            yield fake, one, client


class Asking:
    """Asks a gateway and holds every answer against its document."""

    def __init__(self, client: httpx.Client, described: Described) -> None:
        self._client = client
        self._described = described

    def get(self, path: str, at: str | None = None, key: str | None = "all") -> None:
        """`path` as in the document, `at` as it is asked for."""
        self._described.take(path, self._client.get(at or path, headers=_bearer(key)))

    def post(
        self, path: str, body: dict | bytes, key: str | None = "all", at: str | None = None, **headers: str
    ) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
        head = JSON | _bearer(key) | {name.replace("_", "-"): value for name, value in headers.items()}
        self._described.take(path, self._client.post(at or path, content=content, headers=head))

    def post_half(self, path: str) -> None:
        """A body that never arrives whole; httpx would go on sending."""
        url = self._client.base_url
        with contextlib.closing(http.client.HTTPConnection(url.host, url.port, timeout=20)) as client:
            client.putrequest("POST", path)
            for name, value in (JSON | _bearer("all") | {"content-length": "9"}).items():
                client.putheader(name, value)
            client.endheaders(b"{")
            got = client.getresponse()
            answer = httpx.Response(got.status, headers=got.getheaders(), content=got.read())
        answer.request = httpx.Request("POST", url)
        self._described.take(path, answer)


def _bearer(key: str | None) -> dict[str, str]:
    return {} if key is None else {"authorization": f"Bearer {secret(key)}"}


def ask_of_kept_responses(ask: Asking, upstream: FakeUpstream, one: Running) -> None:
    keeper = one.gateway.upstreams[0]
    at, cancelled = "/v1/responses/{response_id}", "/v1/responses/{response_id}/cancel"
    upstream.answers |= {"/v1/responses/r": reply_json(RESPONSE), "/v1/responses/r/cancel": reply_json(RESPONSE)}
    ask.post(RESPONSES, ITEMS | {"store": True})

    def ask_both(response: str = "r", key: str | None = "all") -> None:
        ask.get(at, f"/v1/responses/{response}", key)
        ask.post(cancelled, b"", key, at=f"/v1/responses/{response}/cancel")

    ask_both()
    ask_both("other")
    ask_both(key="nobody")
    ask.post(cancelled, b"", "one-a-minute", at="/v1/responses/r/cancel")
    ask.post(cancelled, b"", "one-a-minute", at="/v1/responses/r/cancel")
    keeper.keeps_responses = False
    ask_both()
    ask.post(RESPONSES, ITEMS | {"store": True})
    keeper.keeps_responses = True
    responses, one.gateway.responses = one.gateway.responses, None
    ask_both()
    one.gateway.responses = responses


def ask_of_models(ask: Asking) -> None:
    for key in ("all", "plain-only", "nobody", None):
        ask.get("/v1/models", key=key)
        for model in ("fake", "plain", "other"):
            ask.get("/v1/models/{model}", f"/v1/models/{model}", key)
    for path in ("/health", "/ready", "/metrics"):
        ask.get(path)
        ask.get(path, key=None)


def ask_what_is_answered(ask: Asking) -> None:
    for streams in (False, True):
        way = {"stream": streams}
        ask.post(COMPLETIONS, BODY | way)
        ask.post(COMPLETIONS, BODY | way | {"prompt": "x" * 200})  # beyond the training length
        ask.post(COMPLETIONS, BODY | way | {"prompt": "x" * 600, "overflow": "truncate_middle"})
        ask.post(COMPLETIONS, {"model": "plain", "prompt": "x", "max_tokens": 5000} | way, traceparent="00-0-0-0")
        ask.post(CHAT, TALK | way)
        ask.post(CHAT, TALK | way | {"max_tokens": 400, "overflow": "truncate_head"})
        ask.post(RESPONSES, ITEMS | way)
        ask.post(RESPONSES, ITEMS | way | {"max_output_tokens": 400, "truncation": "auto"})
        ask.post(MESSAGES, TALK | way)
        ask.post(MESSAGES, TALK | way | {"max_tokens": 400, "overflow": "truncate_head"})
    ask.post(COUNT, {"model": "fake", "messages": TURNS})
    for body in (
        BODY,
        TALK,
        BODY | {"prompt": "x" * 200},
        BODY | {"prompt": "x" * 600},
        BODY | {"prompt": [[5] * 600, [6]], "overflow": "truncate_tail"},
        BODY | {"max_tokens": 500, "overflow": "truncate_tail"},  # nothing could be kept
        BODY | {"prompt": "x" * 9000},
        TALK | {"max_tokens": 400},
        ITEMS,
        TALK | {"system": "s"},
        {"model": "plain", "prompt": "x"},
    ):
        ask.post(CONTEXT, body)
    ask.post("/tokenize", {"model": "fake", "prompt": "x"})
    ask.post("/tokenize", {"model": "fake", "messages": TURNS})
    ask.post("/detokenize", {"model": "fake", "tokens": [1]})


def ask_what_is_refused(ask: Asking, upstream: FakeUpstream) -> None:
    for path in COUNTED:
        ask.post(path, BODY, key="nobody")
        ask.post(path, BODY, key=None)
        ask.post(path, BODY, key="plain-only")
        ask.post(path, BODY | {"model": "other"})
        ask.post(path, BODY, content_type="text/plain")
        ask.post(path, b"{")
        ask.post(path, {"model": "fake"})
        ask.post(path, b" " * 100_001)
        ask.post(path, BODY, key="one-a-minute")
        ask.post_half(path)
    ask.post(COMPLETIONS, BODY | {"temperature": "hot"})
    ask.post(COMPLETIONS, BODY | {"prompt": "x" * 600})
    ask.post(COMPLETIONS, BODY | {"prompt": "x" * 9000})
    ask.post(CHAT, TALK | {"max_tokens": 400})
    ask.post(RESPONSES, ITEMS | {"max_output_tokens": 400})
    ask.post(MESSAGES, TALK | {"max_tokens": 400})
    ask.post(COMPLETIONS, {"model": "plain", "prompt": ["x"] * 100, "max_tokens": 700})  # more tokens than a minute has
    counting = upstream.answers["/tokenize"]
    upstream.answers["/tokenize"] = reply_json({"error": {"message": NO_TEMPLATE, "code": 400}}, "400 Bad Request")
    for path in (CHAT, CONTEXT):
        ask.post(path, TALK)
    upstream.answers["/tokenize"] = counting


def failures() -> list[Handler]:
    """What may come of an upstream, beside silence."""
    phrase = {"error": {"message": "This model's maximum context length is 10 tokens.", "code": 400}}
    nobody = {"error": {"message": "no such model", "param": "model", "code": 404}}
    statuses = (400, 401, 404, 413, 418, 422, 429, 500, 501, 502, 503, 504, 507)
    event = b"data: " + json.dumps(SAID | {"type": "x", "choices": []}).encode() + b"\n\n"
    refusal = b"HTTP/1.1 %d x\r\nretry-after: 3\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno"
    return [
        *(raw(refusal % status) for status in statuses),
        reply_json(phrase, "400 Bad Request"),
        reply_json(nobody, "404 Not Found"),
        reply(b"<html>", content_type="text/html"),
        hang_up,
        stream(event, end=False),
        stream(event, b'data: {"error": {"message": "lost", "code": 500}}\n\n'),
        stream(event, b"data: {half\n\n"),
    ]


def ask_when_the_upstream_fails(ask: Asking, upstream: FakeUpstream) -> None:
    for failure in failures():
        for path, body in GENERATIONS.items():
            upstream.answers[path] = failure
            for streams in (False, True):
                ask.post(path, body | {"stream": streams})
            upstream.answers[path] = ANSWERS[path]
    before = dict(upstream.answers)
    for failure in failures():
        upstream.answers["/tokenize"] = upstream.answers["/detokenize"] = failure
        ask.post("/tokenize", {"model": "fake", "prompt": "x"})
        ask.post("/detokenize", {"model": "fake", "tokens": [1]})
        ask.post(CONTEXT, BODY)
        ask.post(COUNT, TALK)
    upstream.answers |= before


def ask_when_the_gateway_fails(ask: Asking, one: Running) -> None:
    large = BODY | {"prompt": "x" * 30_000}
    ask.post(COMPLETIONS, large)
    worker = one.gateway.workers[0].pid
    os.kill(worker, signal.SIGSTOP)
    killing = threading.Timer(0.2, os.kill, (worker, signal.SIGKILL))
    killing.start()
    ask.post(COMPLETIONS, large)
    killing.join()
    catalogue, one.gateway.catalogue = one.gateway.catalogue, None
    ask.get("/v1/models")
    ask.get("/v1/models/{model}", "/v1/models/fake")
    ask.get("/ready")
    for path in COUNTED:
        ask.post(path, BODY)
    one.gateway.catalogue = catalogue


def ask_when_others_are_served(ask: Asking, upstream: FakeUpstream, one: Running) -> None:
    """One place, held, and none in the queue; then one in the queue."""
    go = threading.Event()
    held = threading.Event()

    async def note(_: Connection) -> None:
        held.set()

    upstream.answers[COMPLETIONS] = raw(note, when(go), generation)
    holder = threading.Thread(target=lambda: ask.post(COMPLETIONS, BODY, key="one-at-a-time"))
    holder.start()
    assert held.wait(10)
    ask.post(COMPLETIONS, BODY, key="one-at-a-time")
    ask.post(COMPLETIONS, BODY)
    waiting = one.gateway.settings.admission.model_copy(update={"queue_requests": 1, "queue_deadline": 0.1})
    one.gateway.admission.apply(waiting)
    one.gateway.settings = one.gateway.settings.model_copy(update={"admission": waiting})
    ask.post(COMPLETIONS, BODY | {"stream": True})
    go.set()
    holder.join()
    upstream.answers[COMPLETIONS] = generation


def ask_when_nothing_comes(ask: Asking, upstream: FakeUpstream, one: Running) -> None:
    upstream.answers[COMPLETIONS] = upstream.answers["/detokenize"] = never
    ask.post(COMPLETIONS, BODY)
    ask.post("/detokenize", {"model": "fake", "tokens": [1]})
    dripping = [b"1\r\n \r\n", 0.1] * 30
    upstream.answers[COMPLETIONS] = raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", *dripping)
    ask.post(COMPLETIONS, BODY)
    one.gateway.drain.over = True
    ask.post(COMPLETIONS, BODY)
    one.gateway.drain.over = False
    ask.post(RESPONSES, ITEMS | {"store": True})
    upstream.stop()
    ask.post(COMPLETIONS, BODY)
    one.wait(503)
    ask.get("/v1/responses/{response_id}", "/v1/responses/r")
    ask.post("/v1/responses/{response_id}/cancel", b"", at="/v1/responses/r/cancel")
    for path in COUNTED:
        ask.post(path, BODY | {"messages": TURNS, "tokens": [1]} if path != CONTEXT else BODY)
    ask.get("/ready")


def ask_when_limits_are_unknown(ask: Asking) -> None:
    for path in COUNTED:
        ask.post(path, BODY | {"messages": TURNS, "tokens": [1]} if path != CONTEXT else BODY, key="one-a-minute")


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Described:
    """The document of a gateway with keys, and all that its answers show."""
    keys = tmp_path_factory.mktemp("keys") / "keys.yaml"
    keys.write_text(
        "keys:\n" + "\n".join(entry_for(secret(name), name, limits) for name, limits in KEYS.items()) + "\n"
    )
    narrow = {"admission": {"max_requests": 1, "queue_requests": 0}}
    hasty = {"timeouts": {"silence": 0.3, "generation": 0.6}}
    sizes = {"max_body_bytes": 100_000, "large_body_bytes": 20_000, "timeouts": {"body": 0.1}}
    with before(keys, **sizes) as (upstream, one, client):
        found = Described(client.get(OPENAPI_PATH).json())
        ask = Asking(client, found)
        ask_of_models(ask)
        ask_what_is_answered(ask)
        ask_of_kept_responses(ask, upstream, one)
        ask_what_is_refused(ask, upstream)
        ask_when_the_upstream_fails(ask, upstream)
        ask_when_the_gateway_fails(ask, one)
    with before(keys, **narrow) as (upstream, one, client):
        ask_when_others_are_served(Asking(client, found), upstream, one)
    with before(keys, **hasty) as (upstream, one, client):
        ask_when_nothing_comes(Asking(client, found), upstream, one)
    with before(keys, limits={"store": NOBODY}) as (_, _, client):
        ask_when_limits_are_unknown(Asking(client, found))
    return found


@pytest.fixture(scope="module")
def described_open() -> Described:
    """The same of a gateway without keys."""
    with before(None) as (upstream, _, client):
        found = Described(client.get(OPENAPI_PATH).json())
        ask = Asking(client, found)
        ask_of_models(ask)
        ask_what_is_answered(ask)
        ask_when_the_upstream_fails(ask, upstream)
    return found


def test_no_answer_has_anything_that_is_not_described(described: Described, described_open: Described) -> None:
    assert described.complaints == []
    assert described_open.complaints == []


def test_every_code_that_is_described_was_seen(described: Described) -> None:
    listed = {(status, code) for status in STATUSES for code in codes_of(status)}
    assert listed - described.codes == set()


def test_every_header_that_is_described_was_seen(described: Described) -> None:
    assert {header.value for header in Header} - described.headers == set()


def test_every_member_of_the_gateways_own_answers_was_seen(described: Described) -> None:
    listed = {(name, member) for name, schema in own_schemas().items() for member in schema["properties"]}
    assert listed - described.members == set()


def test_every_status_that_is_described_was_seen_but_for_what_only_an_engine_or_a_mistake_of_ours_brings(
    described: Described,
) -> None:
    paths = described.document["paths"].items()
    listed = {
        (path, int(status))
        for path, methods in paths
        for operation in methods.values()
        for status in operation["responses"]
        if (path, status) not in (("/health", "500"), ("/metrics", "500"))
    }
    assert listed - described.statuses == set()


def test_a_member_that_is_not_described_is_noticed() -> None:
    one = Described(document(lambda _path: True))
    for body in ({"status": "ok"}, {"status": "ok", "more": 1}, {}):
        answer = httpx.Response(200, json=body, headers={"x-request-id": "1"}, request=httpx.Request("GET", "http://x"))
        one.take("/health", answer)
    assert [complaint.partition(": 200 ")[2].partition(":")[0] for complaint in one.complaints] == ["$", "$"]
    answer = httpx.Response(418, request=httpx.Request("GET", "http://x"))
    one.take("/health", answer)
    assert one.complaints[-1].startswith("GET /health: 418 is not described")
    answer = httpx.Response(
        200, json={"status": "ok"}, headers={"x-new": "1"}, request=httpx.Request("GET", "http://x")
    )
    one.take("/health", answer)
    assert one.complaints[-1].startswith("GET /health: 200 has the header x-new")
