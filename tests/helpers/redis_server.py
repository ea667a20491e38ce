"""A real Redis or Valkey on a socket of its own; whoever needs one is skipped by name where neither is installed."""

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PROGRAM = shutil.which("redis-server") or shutil.which("valkey-server")
needs_redis = pytest.mark.skipif(PROGRAM is None, reason="needs redis-server: apt-get install redis-server")


@dataclass
class RedisServer:
    """One server that keeps everything in memory."""

    directory: Path
    arguments: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.socket = self.directory / "socket"
        self.url = f"unix://{self.socket}"
        self.start()

    def start(self) -> None:
        """Starts it, empty."""
        command = [PROGRAM, "--port", "0", "--unixsocket", str(self.socket), "--save", "", "--dir", str(self.directory)]
        self.process = subprocess.Popen([*command, *self.arguments], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while not self.socket.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def kill(self) -> None:
        """Ends it at once."""
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()
        self.socket.unlink(missing_ok=True)

    def pause(self) -> None:
        """It takes connections and answers nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def redis_server(*arguments: str) -> Iterator[RedisServer]:
    """A server with further arguments, until the block ends."""
    with tempfile.TemporaryDirectory() as scratch:  # a socket's path may be no longer than 107 bytes
        server = RedisServer(Path(scratch), arguments)
        try:
            yield server
        finally:
            server.kill()
