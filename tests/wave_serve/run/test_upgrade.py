"""A client that offers to go on with another protocol is answered in the one that it began with (RFC 9110, 7.8)."""

import json
import re
import socket

import pytest
from helpers.fake_upstream import FakeUpstream
from helpers.running import Running, running, settings_for

BODY = json.dumps({"model": "fake", "prompt": "hello " * 20, "max_tokens": 5}).encode()
OFFERS = {
    "Java": b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\nUpgrade: h2c\r\n",
    "lower case": b"connection: upgrade\r\nupgrade: h2c\r\n",
    "web socket": b"Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n",
    "several": b"Upgrade: h2c, TLS/1.3\r\nUpgrade: IRC/6.9\r\nConnection: Upgrade\r\n",
    "no connection option": b"Upgrade: h2c\r\n",
    "no upgrade": b"Connection: Upgrade\r\n",
}
LENGTH = b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n7\r\n       \r\n0\r\n\r\n" % (len(BODY), BODY)
POST = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
LAST = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def answers(one: Running, parts: list[bytes]) -> list[int]:
    """The statuses of all answers, the last of which ends the connection."""
    with socket.create_connection(("127.0.0.1", int(one.url.rsplit(":", 1)[1])), timeout=20) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in parts:
            connection.sendall(part)
        got = b""
        while part := connection.recv(2**16):
            got += part
    return [int(status) for status in re.findall(rb"HTTP/1.1 (\d+)", got)]


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("body", [LENGTH, CHUNKED], ids=["length", "chunked"])
@pytest.mark.parametrize("pieces", ["at once", "head first", "byte by byte"])
def test_an_offer_is_ignored_and_the_body_read(gateway: Running, offer: str, body: bytes, pieces: str) -> None:
    head, _, rest = (POST + OFFERS[offer] + body).partition(b"\r\n\r\n")
    whole = head + b"\r\n\r\n" + rest + LAST
    size = {"at once": len(whole), "head first": len(head) + 4, "byte by byte": 1}[pieces]
    assert answers(gateway, [whole[at : at + size] for at in range(0, len(whole), size)]) == [200, 200]


@pytest.mark.parametrize("offer", OFFERS)
def test_requests_that_follow_each_other_at_once_are_all_answered(gateway: Running, offer: str) -> None:
    get = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n" + OFFERS[offer] + b"\r\n"
    assert answers(gateway, [get * 3 + POST + OFFERS[offer] + LENGTH + get + LAST]) == [200] * 6


def test_the_upstream_gets_the_body_as_it_came_and_no_offer(gateway: Running, upstream: FakeUpstream) -> None:
    answers(gateway, [POST + OFFERS["Java"] + LENGTH + LAST])
    (sent,) = upstream.requests[-1:]
    assert sent.body == BODY
    assert "upgrade" not in sent.headers


def test_a_client_with_an_offer_may_ask_before_it_sends_its_body(gateway: Running) -> None:
    head = POST + OFFERS["Java"] + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY)
    assert answers(gateway, [head, BODY, LAST]) == [100, 200, 200]


def test_an_offer_does_not_widen_the_bounds_of_a_request(upstream: FakeUpstream) -> None:
    with running(settings_for(upstream, max_head_bytes=2048, max_body_bytes=len(BODY) - 1)) as one:
        assert answers(one, [POST + OFFERS["Java"] + LENGTH]) == [413]
        assert answers(one, [POST + OFFERS["Java"] + b"a: " + b"y" * 3000]) == [431]


def test_a_tunnel_is_refused(gateway: Running) -> None:
    assert answers(gateway, [b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n"]) == [400]
