"""An answer is under way until its client has taken it, and a client that takes nothing is cut off."""

import contextlib
import json
import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import running as running_module
from helpers.cancelling import at_rest, until
from helpers.fake_upstream import DONE, FakeUpstream, Handler, delta, reply, reply_json, stream
from helpers.running import Running, running, settings_for

from wave_serve.keys.file import entry_for
from wave_serve.run.server import listen

KEY = "sk-wave-0123456789abcdef0123456789abcdef"
LARGE = b'{"choices": [{"index": 0, "text": "' + b"x" * 2**20 + b'"}]}'
EVENTS = [delta("x" * 50_000)] * 20
CUT_OFF = "client cut off: it does not take its answer"


@pytest.fixture(autouse=True)
def _small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system holds some kilobytes for a client that does not read; by default it may hold megabytes."""

    def listen_with_small_buffers(host: str, port: int) -> socket.socket:
        sock = listen(host, port)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return sock

    monkeypatch.setattr(running_module, "listen", listen_with_small_buffers)


@contextlib.contextmanager
def asked(
    one: Running, request_id: str = "mine", path: str = "/v1/completions", **fields: object
) -> Iterator[socket.socket]:
    """A connection on which a request has been sent, whose answer is yet to be read."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", int(one.url.rsplit(":", 1)[1])))
        connection.sendall(request(request_id, path, **fields))
        yield connection


def request(request_id: str, path: str = "/v1/completions", **fields: object) -> bytes:
    body = json.dumps({"prompt": "x"} | fields).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\nx-request-id: {request_id}\r\n"
    return f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def read_all(connection: socket.socket) -> None:
    """Reads until the connection ends."""
    while connection.recv(2**16):
        pass


def cut_off(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The ids of the requests whose clients were cut off."""
    return [record.fields["request_id"] for record in caplog.records if record.message == CUT_OFF]


def test_it_counts_as_one_of_its_keys_requests_until_it_is_taken(upstream: FakeUpstream, tmp_path: Path) -> None:
    upstream.answers["/v1/completions"] = reply(LARGE)
    keys = tmp_path / "keys.yaml"
    keys.write_text(f"keys:\n{entry_for(KEY, 'one', {'concurrency': 1})}\n")
    with running(settings_for(upstream, auth={"keys_file": str(keys)})) as one, asked(one) as connection:
        assert connection.recv(12) == b"HTTP/1.1 200"
        headers = {"authorization": f"Bearer {KEY}"}
        assert one.post({"prompt": "x"}, headers=headers).json()["error"]["code"] == "concurrency_limit_exceeded"
        left = len(LARGE)
        while left > 0:
            left -= len(connection.recv(2**16))
        until(lambda: one.post({"prompt": "x"}, headers=headers).status_code == 200)


@pytest.mark.parametrize(
    ("answer", "path", "fields"),
    [
        pytest.param(reply(LARGE), "/v1/completions", {}, id="whole"),
        pytest.param(stream(*EVENTS, DONE), "/v1/completions", {"stream": True}, id="stream"),
        pytest.param(stream(delta("x" * 2**20), DONE), "/v1/completions", {"stream": True}, id="one event"),
        pytest.param(
            reply_json({"error": {"message": "x" * 2**20}}, "400 Bad Request"), "/v1/completions", {}, id="error"
        ),
        pytest.param(reply(LARGE), "/v1/completions/", {}, id="slash"),
    ],
)
def test_a_client_that_takes_nothing_is_cut_off_and_gives_its_place_back(
    upstream: FakeUpstream, caplog: pytest.LogCaptureFixture, answer: Handler, path: str, fields: dict
) -> None:
    upstream.answers["/v1/completions"] = answer
    caplog.set_level(logging.INFO, "wave_serve")
    limits = {"max_requests": 1}
    with (
        running(settings_for(upstream, timeouts={"idle": 0.3}, admission=limits)) as one,
        asked(one, path=path, **fields) as client,
    ):
        until(lambda: cut_off(caplog) == ["mine"], 20)
        at_rest(one, upstream)
        with pytest.raises(ConnectionResetError):
            read_all(client)
        time.sleep(0.7)
        assert cut_off(caplog) == ["mine"]
        (line,) = [
            each.fields for each in caplog.records if getattr(each, "fields", {}).get("path") == "/v1/completions"
        ]
        assert (line["request_id"], line["status"]) == ("mine", 499)


def test_what_is_left_of_an_answer_does_not_keep_its_connection(
    upstream: FakeUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    # More than the system holds, and not so much that the server waits: the request is over.
    upstream.answers["/v1/completions"] = reply_json({"choices": [], "text": "x" * 50_000})
    with running(settings_for(upstream, timeouts={"idle": 0.3})) as one, asked(one) as client:
        until(lambda: cut_off(caplog) == ["mine"], 20)
        with pytest.raises(ConnectionResetError):
            read_all(client)


def test_the_deadline_of_a_generation_does_not_leave_its_connection_open(
    upstream: FakeUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    upstream.answers["/v1/completions"] = stream(*EVENTS, DONE)
    timeouts = {"idle": 1.5, "generation": 0.2}
    with running(settings_for(upstream, timeouts=timeouts)) as one, asked(one, stream=True) as client:
        until(lambda: cut_off(caplog) == ["mine"], 20)
        at_rest(one, upstream)
        with pytest.raises(ConnectionResetError):
            read_all(client)


def test_requests_sent_ahead_of_it_change_nothing(upstream: FakeUpstream, caplog: pytest.LogCaptureFixture) -> None:
    upstream.answers["/v1/completions"] = stream(*EVENTS, upstream.wait_for_abort)
    with running(settings_for(upstream, timeouts={"idle": 0.3})) as one, asked(one, stream=True) as client:
        client.sendall(request("ahead"))
        until(lambda: cut_off(caplog) == ["mine"], 20)
        assert upstream.aborted.wait(10)
        at_rest(one, upstream)


def test_a_client_that_reads_slowly_gets_all_of_it(upstream: FakeUpstream, caplog: pytest.LogCaptureFixture) -> None:
    upstream.answers["/v1/completions"] = stream(*EVENTS[:4], DONE)
    with running(settings_for(upstream, timeouts={"idle": 1.0})) as one, asked(one, stream=True) as client:
        end = b"0\r\n\r\n"
        got = b""
        while not got.endswith(end):
            got += client.recv(4096)
            time.sleep(0.05)
        assert got.count(b'"text"') == 4
    assert cut_off(caplog) == []
