"""The head of a request has a bound before anyone has said who they are: 414 or 431, and the end of the connection."""

import asyncio
import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from helpers.fake_upstream import FakeUpstream, stream
from helpers.gateway_process import Process
from helpers.running import Running, running, settings_for

from wave_serve.settings import Settings

MOST, HEADERS = 4096, 20
BODY = b'{"model": "fake", "prompt": "hello", "max_tokens": 5}'
START = b"GET /health HTTP/1.1\r\nhost: x\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n" % (len(BODY), BODY)
FILL = b"y" * 1000
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def narrow() -> Iterator[Running]:
    """A gateway with small bounds; what a client does not finish would be waited for for a minute."""
    with FakeUpstream() as fake, running(settings_for(fake, max_head_bytes=MOST, max_headers=HEADERS)) as one:
        yield one


def exchange(one: Running, parts: Iterator[bytes]) -> bytes:
    """All that comes back until the other side ends the connection; what is sent may not be taken to its end."""
    with socket.create_connection(("127.0.0.1", int(one.url.rsplit(":", 1)[1])), timeout=20) as connection:

        def send() -> None:
            with contextlib.suppress(OSError):
                for part in parts:
                    connection.sendall(part)

        sending = threading.Thread(target=send)
        sending.start()
        got = b""
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(2**16):
                got += part
        connection.shutdown(socket.SHUT_RDWR)
        sending.join()
    return got


def endless(start: bytes, filler: bytes) -> Iterator[bytes]:
    """`start`, and 2 MiB that never come to an end of the head."""
    yield start
    for _ in range(2 * 2**20 // len(filler)):
        yield filler


@pytest.mark.parametrize(
    ("start", "filler", "status", "code"),
    [
        (START + b"a: ", FILL, 431, "request_head_too_large"),
        (START, FILL, 431, "request_head_too_large"),
        (START + b"a:", b" " * 1000, 431, "request_head_too_large"),
        (START, b"a: b\r\n" * 100, 431, "request_head_too_large"),
        (START, b"a:" + FILL + b"\r\n", 431, "request_head_too_large"),
        (b"GET /", FILL, 414, "request_url_too_long"),
        (b"GET /health?", b"a=b&" * 200, 414, "request_url_too_long"),
        (POST + b"a: ", FILL, 431, "request_head_too_large"),
    ],
    ids=["value", "name", "spaces", "many", "many and long", "path", "query", "post"],
)
def test_a_head_without_end_is_refused_and_the_connection_ends(
    narrow: Running, start: bytes, filler: bytes, status: int, code: str
) -> None:
    head, _, body = exchange(narrow, endless(start, filler)).partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status
    assert b"\r\nconnection: close" in head
    error = json.loads(body)["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", code)
    assert httpx.get(f"{narrow.url}/health").status_code == 200


@pytest.mark.parametrize("whole", [False, True], ids=["byte by byte", "at once"])
@pytest.mark.parametrize(
    ("url", "header", "status"),
    [(10, MOST - 200, 200), (10, MOST + 1, 431), (MOST - 200, 10, 200), (MOST + 1, 10, 414), (1900, 2300, 431)],
)
def test_the_bound_is_on_the_url_and_the_headers_together(
    narrow: Running, url: int, header: int, status: int, whole: bool
) -> None:
    head = b"GET /health?%s HTTP/1.1\r\nhost: x\r\na: %s\r\nconnection: close\r\n\r\n" % (b"u" * url, b"h" * header)
    parts = [head] if whole else [head[at : at + 1] for at in range(len(head))]
    assert int(exchange(narrow, iter(parts)).split()[1]) == status


@pytest.mark.parametrize(("start", "status"), [(START + b"a: ", 431), (b"GET /", 414)])
def test_a_head_that_stops_beyond_the_bound_is_refused_without_waiting_for_its_end(
    narrow: Running, start: bytes, status: int
) -> None:
    assert int(exchange(narrow, iter([start + b"y" * (MOST * 3 // 2)])).split()[1]) == status


@pytest.mark.parametrize(("more", "status"), [(0, 200), (1, 431)])
def test_one_header_more_than_the_most_is_refused(narrow: Running, more: int, status: int) -> None:
    lines = [b"x%d: y" % number for number in range(HEADERS - 2 + more)]
    head = b"\r\n".join([START + b"connection: close", *lines, b"", b""])
    assert int(exchange(narrow, iter([head])).split()[1]) == status


def test_each_request_of_a_connection_has_the_whole_bound(narrow: Running) -> None:
    with httpx.Client(base_url=narrow.url) as client:
        for _ in range(5):
            answer = client.post("/v1/completions", content=BODY, headers=JSON | {"a": "y" * (MOST // 2)})
            assert answer.status_code == 200


def test_a_large_body_is_no_head(narrow: Running) -> None:
    body = BODY[:-1] + b" " * 300_000 + b"}"
    sent = POST + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
    assert (
        exchange(narrow, iter([sent, *(body[at : at + 999] for at in range(0, len(body), 999))])).split()[1] == b"200"
    )


@pytest.mark.parametrize("filler", [b"a: " + FILL + b"\r\n", b"a: b\r\n", FILL], ids=["long", "many", "endless"])
def test_trailers_have_the_bound_of_the_head(narrow: Running, filler: bytes) -> None:
    got = exchange(narrow, endless(CHUNKED, filler))
    assert got.split()[1] == b"431"
    assert httpx.get(f"{narrow.url}/health").status_code == 200


def test_trailers_within_the_bound_are_no_headers_of_the_request(narrow: Running) -> None:
    got = exchange(narrow, iter([CHUNKED + b"x-request-id: trailing\r\n\r\n", START + b"connection: close\r\n\r\n"]))
    assert re.findall(rb"HTTP/1.1 (\d+)", got) == [b"200", b"200"]
    assert b"trailing" not in got


@pytest.mark.parametrize("size", [len(BODY), 10 * MOST], ids=["small", "large"])
def test_an_answer_under_way_is_not_broken_by_a_refusal_behind_it(upstream: FakeUpstream, size: int) -> None:
    go = threading.Event()

    async def wait(_: object) -> None:
        await asyncio.to_thread(go.wait, 10)

    upstream.answers["/v1/completions"] = stream(b'data: {"choices": []}\n\n', wait, b"data: [DONE]\n\n")
    body = BODY[:-1] + b" " * (size - len(BODY)) + b', "stream": true}'
    patient = {"silence": 60.0, "keep_alive": 60.0}
    with running(settings_for(upstream, max_head_bytes=MOST, timeouts=patient)) as one:

        def parts() -> Iterator[bytes]:
            yield POST + b"content-length: %d\r\n\r\n%s" % (len(body), body[:-9])
            time.sleep(0.2)  # so that the rest and the next head come together, in the middle of the body
            yield body[-9:] + START + FILL * 20
            go.set()

        got = exchange(one, parts())
    assert re.findall(rb"HTTP/1.1 (\d+)", got) == [b"200"]
    assert got.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


def test_requests_that_are_sent_far_ahead_of_their_answers_are_not_kept(narrow: Running) -> None:
    got = exchange(narrow, iter([(START + b"\r\n") * 5000]))
    assert 100 <= got.count(b"HTTP/1.1 200 OK") < 200
    assert got.count(b"HTTP/1.1") == got.count(b'{"status":"ok"}')


def test_some_may_be_sent_ahead(narrow: Running) -> None:
    got = exchange(narrow, iter([(START + b"\r\n") * 50 + START + b"connection: close\r\n\r\n"]))
    assert got.count(b"HTTP/1.1 200 OK") == 51


def test_the_memory_of_a_refused_head_is_given_back(start: Callable[..., Process]) -> None:
    gateway = start()

    def resident(kind: str) -> int:
        """MiB."""
        status = Path(f"/proc/{gateway.process.pid}/status").read_text()
        return int(re.search(rf"{kind}:\s+(\d+) kB", status)[1]) // 1024

    before = resident("VmRSS")
    got = exchange(Running(gateway.url, None), endless_mebibytes(150))
    assert got.split()[1] == b"431"
    assert resident("VmHWM") < before + 8
    assert httpx.get(f"{gateway.url}/health").status_code == 200


def endless_mebibytes(number: int) -> Iterator[bytes]:
    """A head with one header of that size."""
    yield START + b"a: "
    for _ in range(number):
        yield b"y" * 2**20
    yield b"\r\n\r\n"


def test_the_defaults_are_those_of_common_servers() -> None:
    assert (Settings().max_head_bytes, Settings().max_headers) == (65536, 100)
