"""Clients that leave, and what must hold when a request is over."""

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator

import httpx

from helpers.fake_upstream import FakeUpstream
from helpers.running import Running

WAIT = 60  # a bound against hanging, not a claim about speed


def at_rest(one: Running, upstream: FakeUpstream) -> None:
    """No gauge is above 0 and no connection for a generation is left open."""
    until(lambda: gauge(one, "wave_in_flight_requests") == 0)
    until(lambda: upstream.open_generations == 0)
    assert all(each.in_flight == 0 for each in one.gateway.upstreams)


def gauge(one: Running, name: str) -> float:
    """Sum of a metric's series; 0 where there is none."""
    lines = httpx.get(f"{one.url}/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))


def until(holds: Callable[[], bool], seconds: float = WAIT) -> None:
    """Returns once `holds()` is true."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextlib.contextmanager
def asked(url: str, body: dict, path: str = "/v1/completions") -> Iterator[socket.socket]:
    """A connection on which a request has been sent; it is closed when the block ends."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n"
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(head.encode() + b"\r\n" + content)
        yield connection


def read_to(connection: socket.socket, end: bytes) -> None:
    """Reads until `end` has come."""
    got = b""
    while end not in got:
        part = connection.recv(2**16)
        assert part, got
        got += part
