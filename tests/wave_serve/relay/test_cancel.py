"""A client that goes away ends its request at the upstream, whenever it goes, and no one else's."""

import concurrent.futures
import socket

import httpx
import pytest
from helpers.cancelling import asked, at_rest, gauge, read_to, until
from helpers.fake_upstream import DONE, FakeUpstream, delta, raw, stream, when
from helpers.running import Running

BODY = {"model": "fake", "prompt": "hello", "max_tokens": 5}
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "stream"])
def test_leaving_before_the_headers(gateway: Running, upstream: FakeUpstream, streaming: bool) -> None:
    upstream.answers["/v1/completions"] = upstream.wait_for_abort
    with asked(gateway.url, BODY | {"stream": streaming}):
        until(lambda: upstream.open_generations == 1)
    assert upstream.aborted.wait(10)
    until(lambda: gauge(gateway, "wave_aborted_total") == 1)


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "stream"])
def test_leaving_between_the_headers_and_the_first_token(
    gateway: Running, upstream: FakeUpstream, streaming: bool
) -> None:
    begun = raw(HEAD + b"content-length: 9\r\n\r\n", upstream.wait_for_abort)
    upstream.answers["/v1/completions"] = stream(b": ping\n\n", upstream.wait_for_abort) if streaming else begun
    with asked(gateway.url, BODY | {"stream": streaming}) as connection:
        until(lambda: upstream.open_generations == 1)
        if streaming:
            read_to(connection, b": ping")
    assert upstream.aborted.wait(10)
    until(lambda: gauge(gateway, "wave_aborted_total") == 1)


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "stream"])
def test_leaving_in_the_middle(gateway: Running, upstream: FakeUpstream, streaming: bool) -> None:
    half = raw(HEAD + b'content-length: 9\r\n\r\n{"a":', upstream.wait_for_abort)
    upstream.answers["/v1/completions"] = stream(delta("a"), upstream.wait_for_abort) if streaming else half
    with asked(gateway.url, BODY | {"stream": streaming}) as connection:
        until(lambda: upstream.open_generations == 1)
        if streaming:
            read_to(connection, b'"text": "a"')
    assert upstream.aborted.wait(10)
    until(lambda: gauge(gateway, "wave_aborted_total") == 1)


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "stream"])
def test_leaving_after_the_end_is_no_abort(gateway: Running, upstream: FakeUpstream, streaming: bool) -> None:
    # The upstream says that it is done but never closes its stream, so the gateway must.
    slow_to_end = stream(delta("a"), DONE, upstream.wait_for_abort)
    upstream.answers["/v1/completions"] = slow_to_end if streaming else raw(HEAD + b"content-length: 2\r\n\r\n{}")
    with asked(gateway.url, BODY | {"stream": streaming}) as connection:
        read_to(connection, b"[DONE]\n\n" if streaming else b"{}")
    at_rest(gateway, upstream)
    assert gauge(gateway, "wave_aborted_total") == 0
    assert 'endpoint="/v1/completions",status="200"' in httpx.get(f"{gateway.url}/metrics").text


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize"])
def test_leaving_while_the_prompt_is_counted(gateway: Running, upstream: FakeUpstream, path: str) -> None:
    upstream.answers["/tokenize"] = upstream.wait_for_abort
    message = {"messages": [{"role": "user", "content": "x"}]}
    with asked(gateway.url, BODY | message, path):
        until(lambda: any(request.path == "/tokenize" for request in upstream.requests))
    assert upstream.aborted.wait(10)
    assert upstream.generations == 0


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "stream"])
def test_one_of_many_leaves_and_the_others_get_their_answers(
    gateway: Running, upstream: FakeUpstream, streaming: bool
) -> None:
    async def until_told(connection) -> None:
        await (upstream.wait_for_abort if b"leaves" in connection.body else when(upstream.aborted))(connection)

    whole = raw(HEAD + b"content-length: 2\r\n\r\n", until_told, b"{}")
    upstream.answers["/v1/completions"] = stream(delta("a"), until_told, DONE) if streaming else whole
    body = BODY | {"stream": streaming}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(gateway.post, body) for _ in range(8)]
        with asked(gateway.url, body | {"prompt": "leaves"}):
            until(lambda: upstream.open_generations == 9)
        for answer in answers:
            assert answer.result().content == (delta("a") + DONE if streaming else b"{}")
    until(lambda: gauge(gateway, "wave_aborted_total") == 1)


def test_a_body_that_never_arrives_holds_nothing(gateway: Running, upstream: FakeUpstream) -> None:
    host, port = gateway.url.removeprefix("http://").split(":")
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head)
        assert httpx.get(f"{gateway.url}/health").status_code == 200
    at_rest(gateway, upstream)
    # Nothing of it is an error of ours.
    until(lambda: 'status="499"' in httpx.get(f"{gateway.url}/metrics").text)
    assert 'status="500"' not in httpx.get(f"{gateway.url}/metrics").text
