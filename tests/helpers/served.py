"""A real `wave-serve serve`: gateway and vLLM engine, as a user starts them."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

START_SECONDS = 300  # a bound against hanging; a start takes half a minute

PROGRAM = "from wave_serve.cli.main import main; main()"


@dataclass
class Served:
    """A running `wave-serve serve` and what it wrote."""

    process: subprocess.Popen
    url: str
    model: str
    checkpoint: Path
    stdout: Path
    stderr: Path

    def engine_pids(self) -> dict[int, str]:
        """Processes below the gateway: id and name."""
        found: dict[int, str] = {}
        pending = [self.process.pid]
        while pending:
            for pid in children(pending.pop()):
                found[pid] = Path(f"/proc/{pid}/comm").read_text().strip()
                pending.append(pid)
        return found

    def engine_metric(self, name: str, label: str = "") -> float:
        """Sum of a metric of the engine itself over the series with that label, read from its private port."""
        upstream = next(iter(httpx.get(f"{self.url}/ready").json()["upstreams"]))
        lines = httpx.get(f"{upstream}/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{") and label in line)

    def wait_ready(self) -> None:
        """Returns once /ready answers 200."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.stderr.read_text()
            try:
                if httpx.get(f"{self.url}/ready").status_code == 200:
                    return
            except httpx.ConnectError:
                pass
            time.sleep(0.2)
        raise AssertionError(self.stderr.read_text())


def start(checkpoint: Path, scratch: Path, *arguments: str) -> Served:
    """Starts `wave-serve serve` on a free port; `serving` also waits until it is ready, and stops it.

    One thread: the tiny models gain nothing from two, and a test run shares its cores.
    """
    port = free_port()
    out, err = scratch / "stdout", scratch / "stderr"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "serve", str(checkpoint), "--port", str(port), *arguments],
        stdout=out.open("wb"),
        stderr=err.open("wb"),
        env=environment,
        start_new_session=True,
    )
    return Served(process, f"http://127.0.0.1:{port}", checkpoint.name, checkpoint, out, err)


@contextlib.contextmanager
def serving(checkpoint: Path, scratch: Path, *arguments: str) -> Iterator[Served]:
    """`wave-serve serve`, ready, for as long as the block lasts."""
    one = start(checkpoint, scratch, *arguments)
    try:
        one.wait_ready()
        yield one
    finally:
        stop(one)


def stop(served: Served) -> None:
    """Ends it and whatever it left behind."""
    left = [served.process.pid, *served.engine_pids()]
    served.process.send_signal(signal.SIGTERM)
    try:
        served.process.wait(30)
    except subprocess.TimeoutExpired:
        for pid in left:
            os.kill(pid, signal.SIGKILL)


def children(pid: int) -> list[int]:
    """Ids of a process's children."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
