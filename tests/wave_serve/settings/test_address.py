"""Addresses to listen on: IPv6 with and without brackets, and what is printed can be asked."""

import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from wave_serve.run.server import ListenError, listen
from wave_serve.settings.address import is_loopback, local_url


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),  # noqa: S104
        ("::1", "http://[::1]:8000"),
        ("[::1]", "http://[::1]:8000"),
        ("::", "http://[::1]:8000"),
        ("[::]", "http://[::1]:8000"),
        ("0:0:0:0:0:0:0:0", "http://[::1]:8000"),
        ("2001:db8::7", "http://[2001:db8::7]:8000"),
        ("[fe80::1%eth0]", "http://[fe80::1%25eth0]:8000"),
        ("localhost", "http://localhost:8000"),
        ("gateway.example", "http://gateway.example:8000"),
    ],
)
def test_the_url_of_an_address(host: str, url: str) -> None:
    assert local_url(host, 8000) == url
    assert httpx.URL(url).port == 8000


@pytest.mark.parametrize(
    ("host", "only_here"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),  # noqa: S104
        ("::", False),
        ("[2001:db8::7]", False),
        ("gateway.example", False),
    ],
)
def test_who_can_reach_an_address(host: str, only_here: bool) -> None:
    assert is_loopback(host) == only_here


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "[::1]", "::", "[::]", "localhost"])
def test_it_is_listened_on_and_reached_at_the_url(host: str) -> None:
    with listen(host, 0) as sock:
        url = httpx.URL(local_url(host, sock.getsockname()[1]))
        with socket.create_connection((url.host, url.port), timeout=20):
            pass


@pytest.mark.parametrize(
    "host", ["[::1", "::1]", "[127.0.0.1]:80", "http://[::1]", "no.such.host.invalid", "a" * 70, ""]
)
def test_what_is_no_address_is_named(host: str) -> None:
    with pytest.raises(ListenError) as caught:
        listen(host, 0).close()
    assert str(caught.value).startswith(f"cannot listen on {host} port 0: ")
    assert not str(caught.value).endswith("None")


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_the_command_says_where_it_listens(tmp_path: Path, host: str) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("models: {m: {}}\nupstreams: [{base_url: 'http://127.0.0.1:1', models: [m]}]\n")
    program = "from wave_serve.cli.main import main; main()"
    command = [sys.executable, "-c", program, "gateway", "--config", str(file), "--host", host]
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as free:
        port = free.getsockname()[1]
    with subprocess.Popen(
        [*command, "--port", str(port)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            said = process.stdout.readline().decode().strip()
            assert said == f"listening on http://[::1]:{port}"
            assert httpx.get(said.removeprefix("listening on ") + "/health", timeout=20).status_code == 200
        finally:
            process.terminate()
