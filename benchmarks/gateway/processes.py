"""Starts the mock and the proxies, and reads what they cost from /proc."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

from benchmarks.gateway.client import KEY
from benchmarks.servers import free_port, wait_ready
from wave_serve.keys.file import entry_for

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
START_SECONDS = 120


class Process:
    """A process with its children, listening on a port."""

    def __init__(self, name: str, command: list[str], port: int, log: Path, environment: dict[str, str]) -> None:
        self.name = name
        self.port = port
        self._log = log
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                command, stdout=out, stderr=out, env=os.environ | environment, start_new_session=True
            )

    def wait(self, path: str) -> None:
        """Returns once `path` answers 200."""
        wait_ready(self._process, f"http://127.0.0.1:{self.port}{path}", self._log)

    def get(self, path: str) -> str:
        """Body of a GET."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            return str(answer.read().decode())

    def stats(self) -> dict[str, int]:
        """The mock's counts."""
        return dict(json.loads(self.get("/stats")))

    def cpu_seconds(self) -> float:
        """User and system time of the process and its children, ended ones too."""
        return sum(sum(map(int, _stat(pid)[11:15])) for pid in self._pids()) / TICKS

    def rss_mib(self) -> float:
        """Resident memory of the process and its children."""
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self._pids())
        return pages * PAGE / 2**20

    def stop(self) -> None:
        """Ends it and its children."""
        pids = self._pids()
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
        for pid in pids[1:]:
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue

    def _pids(self) -> list[int]:
        found, pending = [self._process.pid], [self._process.pid]
        while pending:
            pid = pending.pop()
            children = [
                int(child)
                for task in Path(f"/proc/{pid}/task").glob("*/children")
                for child in task.read_text().split()
            ]
            found += children
            pending += children
        return found


def mock(tokenizer: Path, scratch: Path) -> Process:
    """The upstream that computes nothing."""
    port = free_port()
    script = Path(__file__).with_name("mock.py")
    one = Process("mock", [sys.executable, str(script), str(port), str(tokenizer)], port, scratch / "mock.log", {})
    one.wait("/health")
    return one


def wave_serve(upstream: Process, tokenizer: Path, scratch: Path) -> Process:
    """One worker of our gateway, with local token counts and caps."""
    port, config, keys = free_port(), scratch / "wave-serve.yaml", scratch / "keys.yaml"
    model = {"tokenizer": str(tokenizer), "train_length": 2048, "max_tokens": 131_072}
    settings = {
        "auth": {"keys_file": str(keys)},
        "models": {"bench": model},
        "upstreams": [{"base_url": f"http://127.0.0.1:{upstream.port}", "models": ["bench"]}],
    }
    keys.write_text(f"keys:\n{entry_for(KEY, 'bench', {})}\n")
    config.write_text(json.dumps(settings))  # JSON is YAML
    program = "from wave_serve.cli.main import main; main()"
    command = [sys.executable, "-c", program, "gateway", "--config", str(config), "--port", str(port)]
    one = Process("wave-serve", command, port, scratch / "wave-serve.log", {})
    one.wait("/ready")
    return one


def litellm(upstream: Process, program: str, scratch: Path) -> Process:
    """One worker of LiteLLM's proxy; it counts and caps nothing."""
    port, config = free_port(), scratch / "litellm.yaml"
    params = {
        "model": "text-completion-openai/bench",
        "api_base": f"http://127.0.0.1:{upstream.port}/v1",
        "api_key": "none",
    }
    settings = {
        "model_list": [{"model_name": "bench", "litellm_params": params}],
        "litellm_settings": {"telemetry": False, "num_retries": 0},
    }
    config.write_text(json.dumps(settings))
    command = [program, "--config", str(config), "--port", str(port), "--host", "127.0.0.1", "--num_workers", "1"]
    offline = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_MASTER_KEY": KEY}
    one = Process("litellm", command, port, scratch / "litellm.log", offline)
    one.wait("/health/liveliness")
    return one


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
