"""Faults of an upstream, each as the handler that shows it and the status and code that it ends in."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from helpers.fake_upstream import DONE, FakeUpstream, delta, hang_up, never, raw, reply, reply_json, stream
from helpers.running import Running, running, settings_for

BODY = {"model": "fake", "prompt": "hello", "max_tokens": 5}

CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
NEVER_FIT = {
    "error": {
        "message": "This model's maximum context length is 10 tokens. However, you requested 11 tokens.",
        "type": "BadRequestError",
        "param": "input_tokens",
        "code": 400,
    }
}
BEFORE_AN_ANSWER = {
    "hangs up": (hang_up, 502, "upstream_died"),
    "hangs up inside the head": (raw(HEAD), 502, "upstream_died"),
    "no HTTP": (raw(b"\x16\x03\x01 nonsense\r\n\r\n"), 502, "upstream_died"),
    "never answers": (never, 504, "upstream_timeout"),
    "500": (reply(b"<html>", "500 Internal Server Error", "text/html"), 500, "upstream_error"),
    "503": (reply_json({"error": {"message": "dead", "code": 503}}, "503 Gone"), 503, "upstream_error"),
    "redirects": (reply(b"", "302 Found"), 502, "upstream_malformed"),
    "wrong content type": (reply(b"<html>", content_type="text/html"), 502, "upstream_malformed"),
    "refuses the gateway": (reply_json({"error": {"message": "no"}}, "401 Unauthorized"), 502, "upstream_refused"),
    "never fits": (reply_json(NEVER_FIT, "400 Bad Request"), 400, "context_length_exceeded"),
}
WHOLE_ONLY = {
    "never gets past the head": (raw(HEAD + b"content-length: 9\r\n\r\n", never), 504, "upstream_timeout"),
    "truncated JSON": (reply(b'{"choices": [{"ind'), 502, "upstream_malformed"),
    "another JSON value": (reply(b"[1]"), 502, "upstream_malformed"),
    "hangs up inside the body": (raw(HEAD + b'content-length: 99\r\n\r\n{"choices": ['), 502, "upstream_died"),
    "stalls inside the body": (
        raw(HEAD + b'content-length: 99\r\n\r\n{"choices": [', never),
        504,
        "upstream_timeout",
    ),
}
MID_STREAM = {
    "cut": (stream(delta("a"), delta("b"), end=False), "upstream_died"),
    "cut inside an event": (stream(delta("a"), delta("b")[:9], end=False), "upstream_died"),
    "no done": (stream(delta("a"), delta("b")), "upstream_died"),
    "not JSON": (stream(delta("a"), b"data: {half\n\n", DONE), "upstream_malformed"),
    "not UTF-8": (stream(delta("a"), b"data: \xff\xfe\n\n", DONE), "upstream_malformed"),
    "the engine's own error": (
        stream(delta("a"), b'data: {"error": {"message": "lost", "code": 500}}\n\n', DONE),
        "upstream_error",
    ),
    "silence": (stream(delta("a"), never), "upstream_timeout"),
    "chunked wrongly": (stream(delta("a"), 0.1, raw(b"zz\r\n")), "upstream_died"),
}
SILENT = ("never answers", "never gets past the head", "stalls inside the body", "silence")


@dataclass
class Gateways:
    """Two gateways before the same upstreams, of which one loses patience with silence soon.

    Counting tokens has the same deadline as an answer, and a busy machine may keep it waiting: only a fault that is
    silence is asked of the hasty one.
    """

    patient: Running
    hasty: Running

    def for_fault(self, fault: str) -> Running:
        """The gateway that is asked when the upstream shows this fault."""
        return self.hasty if fault in SILENT else self.patient


@contextlib.contextmanager
def patient_and_hasty(*upstreams: FakeUpstream, **options: object) -> Iterator[Gateways]:
    """Both gateways before these upstreams, with further settings."""
    listed = [{"base_url": upstream.url, "models": [upstream.model]} for upstream in upstreams]
    patient = settings_for(upstreams[0], upstreams=listed, **options)
    hasty = settings_for(upstreams[0], upstreams=listed, timeouts={"silence": 1.0}, **options)
    with running(patient) as one, running(hasty) as other:
        yield Gateways(one, other)
