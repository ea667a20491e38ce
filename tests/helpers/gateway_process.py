"""`wave-serve gateway` as a process of its own, and streams through it that a test lets go on."""

import asyncio
import fcntl
import json
import os
import shutil
import subprocess
import sys
import termios
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import httpx
import yaml

from helpers import served
from helpers.fake_upstream import DONE, Connection, FakeUpstream, delta, stream
from wave_serve.keys.file import entry_for

ALICE, BOB = "sk-wave-alice-canary", "sk-wave-bob-canary"
BODY = {"model": "fake", "prompt": "hello", "max_tokens": 5}


@dataclass
class Process:
    """`wave-serve gateway` and the files that it reads."""

    directory: Path
    fake: FakeUpstream
    options: dict = field(default_factory=dict)
    stdin: int = subprocess.DEVNULL
    PLACES: ClassVar = ("gateway.yaml", "keys.yaml")

    def __post_init__(self) -> None:
        self.config, self.keys, self.log = (self.directory / name for name in (*self.PLACES, "log"))
        self.port = served.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.write_keys((ALICE, {}))
        self.write_config()
        program = "from wave_serve.cli.main import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, "gateway", "--config", str(self.config)],
            stdin=self.stdin,
            stdout=subprocess.DEVNULL,
            stderr=self.log.open("wb"),
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,
            preexec_fn=None if self.stdin == subprocess.DEVNULL else take_terminal,
        )

    def wait_ready(self) -> None:
        """Returns once it answers."""
        self.until(self._is_ready)

    def write_keys(self, *keys: tuple[str, dict]) -> None:
        """Replaces the keys file."""
        lines = [entry_for(key, f"key-{key[8:11]}", limits) for key, limits in keys]
        self.replace(self.keys, "keys:\n" + "\n".join(lines) + "\n")

    def write_config(self, **changes: object) -> None:
        """Replaces the settings file."""
        settings = {
            "port": self.port,
            "models": {"fake": {"train_length": 100}},
            "upstreams": [{"base_url": self.fake.url, "models": ["fake"]}],
            "timeouts": {"poll": 0.1, "drain": 1.0, "keep_alive": 0.2},
            "auth": {"keys_file": str(self.keys)},
        }
        self.replace(self.config, yaml.safe_dump(settings | self.options | changes))

    def replace(self, file: Path, text: str) -> None:
        """Replaces a file as a careful writer does."""
        part = file.with_suffix(".part")
        part.write_text(text)
        part.rename(file)

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
        deadline = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < deadline, self.log.read_text()
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/ready").status_code == 200
        except httpx.ConnectError:
            return False


class MountedProcess(Process):
    """The same with its files in volumes of Kubernetes, a ConfigMap and a Secret."""

    PLACES = ("settings/gateway.yaml", "keys/keys.yaml")

    def replace(self, file: Path, text: str) -> None:
        """Replaces a volume's file as the kubelet does.

        The file is a link through the link `..data` to a folder with all the volume's files. A new folder is written,
        `..data` is replaced by a link to it, and the old folder is removed.
        """
        volume = file.parent
        data = volume / "..data"
        old = data.resolve() if data.is_symlink() else None
        fresh = volume / f"..{time.time_ns()}"
        fresh.mkdir(parents=True)
        (fresh / file.name).write_text(text)
        link = volume / "..data_tmp"
        link.symlink_to(fresh.name)
        link.rename(data)
        if old is None:
            file.symlink_to(Path("..data", file.name))
        else:
            shutil.rmtree(old)


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
