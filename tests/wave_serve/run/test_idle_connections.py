"""How long a client's connection stays open without a request, and that this gives no request more time to arrive."""

import contextlib
import socket
import time
from collections.abc import Iterator

from helpers.fake_upstream import FakeUpstream
from helpers.running import Running, running, settings_for

from wave_serve.settings import Settings

GET = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
PROXIES_HOLD = 90.0  # seconds: Go's default transport; nginx and AWS hold 60


@contextlib.contextmanager
def connected(one: Running) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", int(one.url.rsplit(":", 1)[1])), timeout=20) as connection:
        yield connection


def ask(connection: socket.socket) -> None:
    """One request that is answered to its end."""
    connection.sendall(GET)
    got = b""
    while not got.endswith(b'{"status":"ok"}'):
        part = connection.recv(2**16)
        assert part, "the connection has ended"
        got += part
    assert got.startswith(b"HTTP/1.1 200")


def test_by_default_it_stays_open_longer_than_proxies_hold_it() -> None:
    assert Settings().timeouts.idle > PROXIES_HOLD


def test_it_may_be_idle_longer_than_a_request_may_take_to_arrive(upstream: FakeUpstream) -> None:
    with running(settings_for(upstream, timeouts={"body": 0.3, "idle": 600.0})) as one:
        with connected(one) as connection:
            for wait in (0.0, 0.8, 0.8):
                time.sleep(wait)
                ask(connection)
            connection.sendall(GET[:20])  # and never the rest
            assert connection.recv(2**16) == b""
        with connected(one) as connection:  # and never anything
            assert connection.recv(2**16) == b""


def test_it_ends_after_the_time_that_is_set(upstream: FakeUpstream) -> None:
    with running(settings_for(upstream, timeouts={"body": 600.0, "idle": 0.2})) as one, connected(one) as connection:
        ask(connection)
        assert connection.recv(2**16) == b""


def test_idle_connections_do_not_hold_up_the_end(upstream: FakeUpstream) -> None:
    with contextlib.ExitStack() as stack:
        with running(settings_for(upstream, timeouts={"idle": 600.0})) as one:
            connection = stack.enter_context(connected(one))
            ask(connection)
        assert connection.recv(2**16) == b""
