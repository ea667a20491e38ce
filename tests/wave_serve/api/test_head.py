"""HEAD is as GET, without a body, wherever there is something to GET."""

import socket

import httpx
import pytest
from helpers.fake_upstream import FakeUpstream
from helpers.running import Running, running, settings_for

from wave_serve.keys.file import entry_for

READABLE = [
    "/health",
    "/ready",
    "/v1/models",
    "/v1/models/fake",
    "/v1/models/none",
    "/metrics",
    "/docs",
    "/openapi.json",
]
CHANGING = {"date", "x-request-id", "content-length"}  # metrics grow by a digit


@pytest.mark.parametrize("path", READABLE)
def test_head_answers_as_get_does(gateway: Running, path: str) -> None:
    whole, head = httpx.get(gateway.url + path), httpx.head(gateway.url + path)
    assert (head.status_code, head.content) == (whole.status_code, b"")
    assert head.headers.keys() == whole.headers.keys()
    assert [(name, value) for name, value in head.headers.items() if name not in CHANGING] == [
        (name, value) for name, value in whole.headers.items() if name not in CHANGING
    ]
    if path != "/metrics":
        assert int(head.headers["content-length"]) == len(whole.content)


def test_no_byte_of_a_body_comes_and_the_connection_goes_on(gateway: Running) -> None:
    with socket.create_connection(("127.0.0.1", int(gateway.url.rsplit(":", 1)[1])), timeout=20) as connection:
        connection.sendall(b"HEAD /health HTTP/1.1\r\nhost: x\r\n\r\n" * 2)
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        got = b""
        while part := connection.recv(2**16):
            got += part
    assert got.count(b"HTTP/1.1 200") == 3
    assert got.count(b'{"status":"ok"}') == 1


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/context", "/tokenize", "/detokenize"])
def test_what_cannot_be_read_cannot_be_asked_for(gateway: Running, path: str) -> None:
    for method in ("HEAD", "GET", "PUT"):
        answer = httpx.request(method, gateway.url + path)
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert httpx.head(f"{gateway.url}/nowhere").status_code == 404
    answer = httpx.put(f"{gateway.url}/health")
    assert (answer.status_code, set(answer.headers["allow"].split(", "))) == (405, {"GET", "HEAD"})


def test_head_asks_for_a_key_where_get_does(upstream: FakeUpstream, tmp_path) -> None:
    keys = tmp_path / "keys.yaml"
    keys.write_text(f"keys:\n{entry_for('sk-wave-0123456789abcdef0123456789abcdef', 'alice', {})}\n")
    with running(settings_for(upstream, auth={"keys_file": str(keys)})) as one:
        for path in READABLE:
            assert httpx.head(one.url + path).status_code == httpx.get(one.url + path).status_code
        assert httpx.head(f"{one.url}/v1/models").status_code == 401
