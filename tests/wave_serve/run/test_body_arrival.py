"""Bodies that arrive slowly, by halves, never, or too large: each request ends, and costs no more than the limits."""

import asyncio
import contextlib
import json
import logging
import re
import socket
import threading
from collections.abc import Iterator

import httpx
import pytest
from helpers.cancelling import at_rest, gauge, until
from helpers.fake_upstream import DONE, FakeUpstream, delta, stream
from helpers.running import Running, running, settings_for
from starlette.types import Message

from wave_serve.api.app import build_app
from wave_serve.gateway import Gateway

BODY = json.dumps({"model": "fake", "prompt": "hello", "max_tokens": 5}).encode()
READING = ["/v1/completions", "/v1/chat/completions", "/v1/context", "/tokenize", "/detokenize"]
LIMIT = 1000


@contextlib.contextmanager
def begun(url: str, *headers: str, path: str = READING[0]) -> Iterator[socket.socket]:
    """A connection on which the head of a request has been sent."""
    host, port = url.removeprefix("http://").split(":")
    lines = [f"POST {path} HTTP/1.1", "host: x", "content-type: application/json", *headers, "", ""]
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall("\r\n".join(lines).encode())
        yield connection


def refusal(connection: socket.socket) -> tuple[int, str, dict]:
    """Status, head and error of the answer, after which the server must have closed the connection."""
    got = b""
    with contextlib.suppress(ConnectionResetError):  # instead of an end, where more was sent meanwhile
        while part := connection.recv(2**16):
            got += part
    head, _, body = got.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode().lower(), json.loads(body)["error"]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@pytest.fixture(scope="module")
def hasty() -> Iterator[tuple[FakeUpstream, Running]]:
    """A fake upstream and a gateway that gives a body half a second."""
    with (
        FakeUpstream() as fake,
        running(settings_for(fake, timeouts={"body": 0.5}, max_body_bytes=LIMIT)) as one,
    ):
        yield fake, one


@pytest.mark.parametrize("path", READING)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_trickles_in_is_a_408_and_the_end_of_its_connection(
    hasty: tuple[FakeUpstream, Running], path: str, chunked: bool
) -> None:
    upstream, one = hasty
    ended = threading.Event()

    def trickle(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the other side has hung up, as it should
            while not ended.wait(0.05):  # never a gap as long as the deadline
                connection.sendall(chunk(b"{") if chunked else b"{")

    length = "transfer-encoding: chunked" if chunked else f"content-length: {LIMIT}"
    with begun(one.url, length, path=path) as connection:
        sending = threading.Thread(target=trickle, args=(connection,))
        sending.start()
        try:
            status, head, error = refusal(connection)
        finally:
            ended.set()
            sending.join()
    assert status == 408
    assert "\r\nconnection: close" in head
    assert re.search("\r\nx-request-id: [0-9a-f]{32}", head)
    assert error == {
        "message": "The request body did not arrive within 0.5 s.",
        "type": "invalid_request_error",
        "param": None,
        "code": "request_timeout",
    }
    assert upstream.generations == 0
    at_rest(one, upstream)


def test_a_slow_body_within_its_deadline_is_answered(upstream: FakeUpstream) -> None:
    def parts() -> Iterator[bytes]:
        for index in range(len(BODY)):
            yield BODY[index : index + 1]

    with running(settings_for(upstream)) as one:
        answer = httpx.post(one.url + READING[0], content=parts(), headers={"content-type": "application/json"})
    assert answer.status_code == 200


@pytest.mark.parametrize("path", READING)
def test_leaving_inside_the_body_is_logged_as_499_and_as_nobodys_mistake(
    gateway: Running, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    with caplog.at_level(logging.DEBUG):
        with begun(gateway.url, "content-length: 99", path=path) as connection:
            connection.sendall(BODY[:9])
            assert httpx.get(f"{gateway.url}/health").status_code == 200
        until(lambda: any(getattr(record, "fields", {}).get("path") == path for record in caplog.records))
    (line,) = [record.fields for record in caplog.records if getattr(record, "fields", {}).get("path") == path]
    assert (line["status"], line.get("error")) == (499, None)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert gauge(gateway, "wave_in_flight_requests") == 0


class Fed:
    """Drives the application without a server, and counts what it takes of a body that never ends."""

    def __init__(self, gateway: Gateway, part: int) -> None:
        self._app = build_app(gateway)
        self._part = part
        self.taken = 0
        self.status = 0

    def post(self, *headers: tuple[bytes, bytes]) -> None:
        """One request whose body is of as many parts as are asked for."""
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "path": READING[0],
            "query_string": b"",
            "headers": [(b"content-type", b"application/json"), *headers],
        }
        asyncio.run(self._app(scope, self._receive, self._send))

    async def _receive(self) -> Message:
        self.taken += self._part
        return {"type": "http.request", "body": b" " * self._part, "more_body": True}

    async def _send(self, message: Message) -> None:
        self.status = message.get("status", self.status)


def test_nothing_is_read_of_a_body_that_is_declared_too_large(upstream: FakeUpstream) -> None:
    fed = Fed(Gateway(settings_for(upstream, max_body_bytes=LIMIT)), part=7)
    fed.post((b"content-length", b"%d" % (LIMIT + 1)))
    assert (fed.status, fed.taken) == (413, 0)


@pytest.mark.parametrize("part", [1, 7, 333, 5000])
def test_reading_ends_with_the_part_that_passes_the_limit(upstream: FakeUpstream, part: int) -> None:
    fed = Fed(Gateway(settings_for(upstream, max_body_bytes=LIMIT)), part)
    fed.post((b"transfer-encoding", b"chunked"))
    assert fed.status == 413
    assert LIMIT < fed.taken <= LIMIT + part


def test_a_client_that_asks_first_is_not_told_to_send_a_body_that_is_too_large(
    hasty: tuple[FakeUpstream, Running],
) -> None:
    _, one = hasty
    with begun(one.url, f"content-length: {LIMIT + 1}", "expect: 100-continue") as connection:
        status, _, error = refusal(connection)
    assert (status, error["code"]) == (413, "request_too_large")
    with begun(one.url, f"content-length: {len(BODY)}", "expect: 100-continue") as connection:
        assert connection.recv(2**16).startswith(b"HTTP/1.1 100 Continue")
        connection.sendall(BODY)
        assert connection.recv(2**16).startswith(b"HTTP/1.1 200 OK")


def test_one_byte_past_the_limit_is_answered_without_waiting_for_the_rest(upstream: FakeUpstream) -> None:
    with (
        running(settings_for(upstream, max_body_bytes=LIMIT)) as one,
        begun(one.url, "transfer-encoding: chunked") as connection,
    ):
        connection.sendall(chunk(b" " * LIMIT) + chunk(b" "))  # and no end
        status, head, error = refusal(connection)
    assert (status, error["code"]) == (413, "request_too_large")
    assert "\r\nconnection: close" in head


def drip(connection: socket.socket, data: bytes) -> bytes:
    """What comes while a client sends its bytes slowly, again and again from the start, until the server hangs up."""
    got = b""
    connection.settimeout(0.05)
    for number in range(400):  # 20 s
        try:
            connection.sendall(data[number % len(data) :][:1])
            part = connection.recv(2**16)
        except TimeoutError:
            continue
        except OSError:
            return got
        if not part:
            return got
        got += part
    raise AssertionError("the server holds the connection")


HEAD = b"POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 99999\r\n\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "dripped", "answers"),
    [
        (b"", b"", []),
        (b"GET /health HTTP/1.1\r\nx: ", b"y", []),
        (HEALTH, b"\r\n", [200]),  # no request, but not idle either
        (HEAD, b"{", [404]),  # nobody reads this body
        (HEALTH + HEAD, b"{", [200, 404]),
    ],
    ids=["nothing", "half a head", "empty lines", "the body of a refused request", "that of a second request"],
)
def test_a_connection_on_which_no_request_comes_whole_ends(
    hasty: tuple[FakeUpstream, Running], sent: bytes, dripped: bytes, answers: list[int]
) -> None:
    _, one = hasty
    with socket.create_connection(("127.0.0.1", int(one.url.rsplit(":", 1)[1])), timeout=20) as connection:
        connection.sendall(sent)
        got = drip(connection, dripped) if dripped else connection.recv(2**16)
    assert [int(status) for status in re.findall(rb"HTTP/1.1 (\d+)", got)] == answers


def test_a_request_that_has_come_may_take_longer_to_be_answered(hasty: tuple[FakeUpstream, Running]) -> None:
    upstream, one = hasty
    slow = [delta("a"), 0.4, delta("b"), 0.4, delta("c"), DONE]
    upstream.answers["/v1/completions"] = stream(*slow)
    with httpx.Client() as client:
        for _ in range(2):  # on one connection
            answer = client.post(one.url + READING[0], json=json.loads(BODY) | {"stream": True})
            assert answer.content == b"".join(part for part in slow if isinstance(part, bytes))


def test_what_is_not_http_is_refused_in_openais_shape(hasty: tuple[FakeUpstream, Running]) -> None:
    _, one = hasty
    with socket.create_connection(("127.0.0.1", int(one.url.rsplit(":", 1)[1])), timeout=20) as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        status, _, error = refusal(connection)
    assert (status, error["type"], error["message"]) == (400, "invalid_request_error", "Invalid HTTP request received.")
