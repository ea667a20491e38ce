"""A gateway's process from one signal to the next: new keys and limits without a dropped stream, and its end."""

import asyncio
import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import served
import yaml
from fake_upstream import DONE, Connection, FakeUpstream, delta, stream

from wave_serve.keys_file import entry_for

ALICE, BOB = "sk-wave-alice-canary", "sk-wave-bob-canary"
REFUSED = "reload refused; the old settings stay"
BODY = {"model": "fake", "prompt": "hello", "max_tokens": 5}


@dataclass
class Process:
    """`wave-serve gateway` and the files that it reads."""

    directory: Path
    fake: FakeUpstream
    options: dict = field(default_factory=dict)
    stdin: int = subprocess.DEVNULL

    def __post_init__(self) -> None:
        self.config, self.keys, self.log = (self.directory / name for name in ("gateway.yaml", "keys.yaml", "log"))
        self.port = served.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.write_keys((ALICE, {}))
        self.write_config()
        program = "from wave_serve.cli import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, "gateway", "--config", str(self.config)],
            stdin=self.stdin,
            stdout=subprocess.DEVNULL,
            stderr=self.log.open("wb"),
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,
            preexec_fn=None if self.stdin == subprocess.DEVNULL else take_terminal,
        )
        self.until(self._is_ready)

    def write_keys(self, *keys: tuple[str, dict]) -> None:
        """Replaces the keys file as a careful writer does."""
        lines = [entry_for(key, f"key-{key[8:11]}", limits) for key, limits in keys]
        part = self.keys.with_suffix(".part")
        part.write_text("keys:\n" + "\n".join(lines) + "\n")
        part.rename(self.keys)

    def write_config(self, **changes: object) -> None:
        """Replaces the settings file."""
        settings = {
            "port": self.port,
            "models": {"fake": {"train_length": 100}},
            "upstreams": [{"base_url": self.fake.url, "models": ["fake"]}],
            "timeouts": {"poll": 0.1, "drain": 1.0, "keep_alive": 0.2},
            "auth": {"keys_file": str(self.keys)},
        }
        self.config.write_text(yaml.safe_dump(settings | self.options | changes))

    def post(self, key: str = ALICE, **fields: object) -> httpx.Response:
        """One completion."""
        headers = {"authorization": f"Bearer {key}"}
        return httpx.post(f"{self.url}/v1/completions", json=BODY | fields, headers=headers, timeout=20)

    def events(self, name: str) -> list[dict]:
        """The log's lines of one event."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def until(self, holds) -> None:
        """Returns once `holds()`."""
        deadline = time.monotonic() + 30
        while not holds():
            assert time.monotonic() < deadline, self.log.read_text()
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/ready").status_code == 200
        except httpx.ConnectError:
            return False


def take_terminal() -> None:
    """Makes standard input the terminal of the process's session, as a login shell does."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@dataclass
class Streamed:
    """A stream that one thread reads and the test lets go on."""

    gateway: Process
    body: bytes = b""
    status: int = 0

    def __post_init__(self) -> None:
        self._go = threading.Event()
        self._begun = threading.Event()

        async def answer(connection: Connection) -> None:
            async def wait(_: Connection) -> None:
                await asyncio.to_thread(self._go.wait)

            await stream(delta("first"), wait, delta("last"), DONE)(connection)

        self.gateway.fake.answers["/v1/completions"] = answer
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        assert self._begun.wait(20)

    def _read(self) -> None:
        headers = {"authorization": f"Bearer {ALICE}"}
        body = BODY | {"stream": True}
        with httpx.stream(
            "POST", f"{self.gateway.url}/v1/completions", json=body, headers=headers, timeout=20
        ) as answer:
            self.status = answer.status_code
            for data in answer.iter_raw():
                self.body += data
                self._begun.set()

    def go_on(self) -> None:
        """Lets the upstream end its answer."""
        self._go.set()

    def end(self) -> bytes:
        """What was read, comments left out, once the stream has ended."""
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.body.replace(b": keep-alive\n\n", b"")


@pytest.fixture
def start(tmp_path: Path, upstream: FakeUpstream) -> Iterator:
    started: list[Process] = []

    def start(stdin: int = subprocess.DEVNULL, **options: object) -> Process:
        started.append(Process(tmp_path, upstream, options, stdin))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


def test_keys_and_limits_change_while_a_stream_goes_on(start) -> None:
    gateway = start()
    streamed = Streamed(gateway)
    assert gateway.post(BOB).status_code == 401

    gateway.write_keys((BOB, {"requests_per_minute": 100}))
    gateway.process.send_signal(signal.SIGHUP)
    gateway.until(lambda: gateway.events("reloaded"))
    gateway.fake.answers["/v1/completions"] = stream(delta("ok"), DONE)
    assert gateway.post(ALICE).status_code == 401
    assert gateway.post(BOB, stream=True).headers["x-ratelimit-remaining-requests"] == "99"

    gateway.write_keys((BOB, {"requests_per_minute": 50}))  # no signal: the change is seen
    gateway.until(lambda: len(gateway.events("reloaded")) == 2)
    assert gateway.post(BOB, stream=True).headers["x-ratelimit-remaining-requests"] == "48"

    gateway.write_config(models={"fake": {"train_length": 100, "max_tokens": 10}}, host="127.0.0.2")
    gateway.until(lambda: len(gateway.events("reloaded")) == 3)
    assert gateway.events("reloaded")[-1]["needs_restart"] == ["host"]
    assert gateway.post(BOB, max_tokens=50).json()["error"]["code"] == "context_length_exceeded"

    streamed.go_on()
    assert streamed.end() == delta("first") + delta("last") + DONE


MISTAKES = [
    ("keys", f"keys:\n  - name: alice\n    sha256: {ALICE}\n", "keys.yaml:3:5: keys.0.sha256: "),
    ("keys", "keys:\n  - {name: alice\n", "keys.yaml:3:1: not valid YAML"),
    ("config", "port: 8000\nadmision: {}\n", "gateway.yaml:2:1: unknown key admision; did you mean admission?"),
]


def test_a_mistake_keeps_the_old_settings_and_says_its_line(start) -> None:
    gateway = start()
    gateway.fake.answers["/v1/completions"] = stream(delta("ok"), DONE)

    def refused() -> list[str]:
        return [mistake for line in gateway.events(REFUSED) for mistake in line["mistakes"]]

    for file, text, line in MISTAKES:
        getattr(gateway, file).write_text(text)
        gateway.until(lambda line=line: any(line in mistake for mistake in refused()))
        assert gateway.post(ALICE, stream=True).status_code == 200
        assert gateway.post(BOB).status_code == 401
        gateway.write_keys((ALICE, {}))
        gateway.write_config()
    gateway.write_config(auth={})
    gateway.until(lambda: any("would open the gateway to everyone" in mistake for mistake in refused()))
    gateway.write_config()
    gateway.keys.unlink()
    gateway.until(lambda: any("No such file" in mistake for mistake in refused()) or gateway.process.send_signal(1))
    assert gateway.post(ALICE, stream=True).status_code == 200
    assert "canary" not in gateway.log.read_text()
    gateway.write_keys((BOB, {}))
    gateway.until(lambda: gateway.post(BOB, stream=True).status_code == 200)


def test_a_closed_terminal_ends_the_gateway_though_a_hangup_means_reload(start) -> None:
    ours, theirs = pty.openpty()
    gateway = start(stdin=theirs)
    os.close(theirs)
    gateway.process.send_signal(signal.SIGHUP)
    gateway.until(lambda: gateway.events("reloaded"))
    os.close(ours)
    assert gateway.process.wait(20) == 0


def test_sigterm_lets_a_stream_end_in_its_time(start) -> None:
    gateway = start()
    streamed = Streamed(gateway)
    gateway.process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    streamed.go_on()
    assert streamed.end() == delta("first") + delta("last") + DONE
    assert gateway.process.wait(10) == 0


def test_sigterm_ends_what_does_not_end_with_an_error_that_clients_can_read(start) -> None:
    gateway = start(admission={"max_requests": 1})
    streamed = Streamed(gateway)
    queued: list[httpx.Response] = []
    waiting = threading.Thread(target=lambda: queued.append(gateway.post(ALICE)))
    waiting.start()
    gateway.until(lambda: "wave_queue_requests 1.0" in httpx.get(f"{gateway.url}/metrics").text)
    gateway.process.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    content = streamed.end()
    streamed.go_on()  # the upstream's thread would keep the test run from ending
    waiting.join()
    assert content.startswith(delta("first") + b'data: {"error": {"message": "The gateway is shutting down')
    assert b'"code": "gateway_stopping"' in content
    assert (queued[0].status_code, queued[0].json()["error"]["code"]) == (503, "gateway_stopping")
    assert queued[0].headers["retry-after"] == "1"
    assert gateway.process.wait(10) == 0
    assert time.monotonic() - asked < 8, "1 s of drain, and what a loaded machine needs"
    assert gateway.fake.requests[-1].path in ("/v1/completions", "/tokenize")
