"""What the benchmarks that start servers share, and the machine that their results name. Standard library only."""

from __future__ import annotations

import os
import platform
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import subprocess

START_SECONDS = 300
"""Longest wait for a server; on a busy machine vLLM compiles for minutes."""


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_ready(process: subprocess.Popen[bytes], url: str, log: Path, seconds: float = START_SECONDS) -> None:
    """Return once ``url`` answers with success.

    Raises:
        RuntimeError: the process ended or the time is over; with the end of ``log``.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - our own server
                return
        except (OSError, urllib.error.URLError):
            time.sleep(0.3)
    raise RuntimeError(f"{url} did not answer:\n{log.read_text()[-4000:]}")


def cpu_vendor() -> str:
    """``amd``, ``intel`` or what else /proc/cpuinfo names: results are kept apart by it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("vendor_id")), platform.machine())
    return {"AuthenticAMD": "amd", "GenuineIntel": "intel"}.get(name, name)


def machine() -> dict[str, Any]:
    """Name of the CPU, cores that this process may use, and Python's version."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return {"cpu": cpu, "cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}
