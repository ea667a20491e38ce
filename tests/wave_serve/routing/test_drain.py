"""A gateway's end: what ends in its time is answered, what does not gets an error, and the process is gone by then."""

import contextlib
import http.client
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from helpers.fake_upstream import DONE, delta, never, reply_json, stream
from helpers.gateway_process import ALICE, BODY, Process, Streamed


def refused(gateway: Process) -> bool:
    """Whether the gateway takes no more connections."""
    try:
        socket.create_connection(("127.0.0.1", gateway.port)).close()
    except ConnectionRefusedError:
        return True
    return False


def test_sigterm_lets_a_stream_end_in_its_time(start) -> None:
    gateway = start()
    streamed = Streamed(gateway)
    gateway.process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    streamed.go_on()
    assert streamed.end() == delta("first") + delta("last") + DONE
    assert gateway.process.wait(10) == 0


DRAIN = 1.0
PATIENCE = DRAIN + 10  # what a loaded machine needs; far from every other time limit of these gateways
OTHER_LIMITS = {"poll": 0.1, "drain": DRAIN, "keep_alive": 0.2, "stop": 60.0, "body": 60.0, "silence": 60.0}


def test_sigterm_ends_what_does_not_end_with_an_error_that_clients_can_read(start) -> None:
    gateway = start(admission={"max_requests": 2}, timeouts=OTHER_LIMITS)
    quick, slow = Streamed(gateway), Streamed(gateway)
    queued: list[httpx.Response] = []
    waiting = threading.Thread(target=lambda: queued.append(gateway.post(ALICE)))
    waiting.start()
    gateway.until(lambda: "wave_queue_requests 1.0" in httpx.get(f"{gateway.url}/metrics").text)
    gateway.process.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    gateway.until(lambda: refused(gateway))
    gateway.fake.answers["/v1/completions"] = never  # what waited for the place of the quick one
    quick.go_on()
    assert quick.end() == delta("first") + delta("last") + DONE
    content = slow.end()
    slow.go_on()  # the upstream's thread would keep the test run from ending
    waiting.join()
    assert content.startswith(delta("first") + b'data: {"error": {"message": "The gateway is shutting down')
    assert content.endswith(b'"type": "server_error", "param": null, "code": "gateway_stopping"}}\n\n')
    assert (queued[0].status_code, queued[0].json()["error"]["code"]) == (503, "gateway_stopping")
    assert queued[0].headers["retry-after"] == "1"
    assert gateway.process.wait(PATIENCE) == 0
    assert DRAIN <= time.monotonic() - asked < PATIENCE
    ends = sorted((line["status"], line.get("error", "")) for line in gateway.events("request"))
    assert ends == [(200, ""), (200, "gateway_stopping"), (503, "gateway_stopping")]


READING = ("/v1/completions", "/v1/chat/completions", "/v1/context", "/tokenize", "/detokenize")


@contextlib.contextmanager
def asked(gateway: Process, path: str, *, whole: bool) -> Iterator[http.client.HTTPConnection]:
    """A request of which all or all but the last byte is sent."""
    fields = {"messages": [{"role": "user", "content": "x"}], "tokens": [1]}
    body = json.dumps(fields | ({} if path == "/v1/context" else {"prompt": "x"})).encode()
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)) as client:
        client.putrequest("POST", path)
        client.putheader("authorization", f"Bearer {ALICE}")
        client.putheader("content-type", "application/json")
        client.putheader("content-length", str(len(body)))
        client.endheaders(body if whole else body[:-1])
        yield client


def test_sigterm_ends_what_has_not_come_as_far_as_an_upstream(start) -> None:
    gateway = start(timeouts=OTHER_LIMITS)
    gateway.fake.answers["/tokenize"] = gateway.fake.answers["/detokenize"] = never
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(asked(gateway, path, whole=whole)) for path in READING for whole in (True, False)
        ]
        gateway.until(lambda: len(gateway.fake.requests) == len(READING))
        gateway.process.send_signal(signal.SIGTERM)
        asked_at = time.monotonic()
        for client in clients:
            answer = client.getresponse()
            assert (answer.status, json.loads(answer.read())["error"]["code"]) == (503, "gateway_stopping")
            assert (answer.headers["retry-after"], answer.headers["connection"]) == ("1", "close")
    assert gateway.process.wait(PATIENCE) == 0
    assert DRAIN <= time.monotonic() - asked_at < PATIENCE
    assert "Traceback" not in gateway.log.read_text()


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "stream"])
def test_sigterm_does_not_wait_for_a_client_that_reads_nothing(start, streaming: bool) -> None:
    gateway = start(timeouts=OTHER_LIMITS)
    whole = reply_json({"choices": [], "text": "x" * 2**24})
    gateway.fake.answers["/v1/completions"] = stream(*[delta("x" * 2**16)] * 1000, never) if streaming else whole
    body = BODY | {"stream": streaming}
    headers = {"authorization": f"Bearer {ALICE}"}
    with httpx.stream("POST", f"{gateway.url}/v1/completions", json=body, headers=headers):
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(PATIENCE) == 0
    (request_id,) = [line["request_id"] for line in gateway.events("request")]
    assert [line["request_id"] for line in gateway.events("client cut off: it does not take its answer")] == [
        request_id
    ]
    assert "running task" not in gateway.log.read_text()


def test_sigterm_waits_neither_for_idle_connections_nor_for_those_that_have_sent_half_a_head(start) -> None:
    gateway = start(timeouts=OTHER_LIMITS | {"drain": 60.0})
    with (
        httpx.Client() as idle,
        socket.create_connection(("127.0.0.1", gateway.port)),
        socket.create_connection(("127.0.0.1", gateway.port)) as half,
    ):
        half.sendall(b"POST /v1/completions HTTP/1.1\r\nhost:")
        assert idle.get(f"{gateway.url}/health").status_code == 200
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(PATIENCE) == 0
