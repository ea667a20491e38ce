"""The parts: two gateways, three engines on addresses of their own, and a Redis; all on loopback."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

from benchmarks.drill.engine import MODEL
from benchmarks.servers import free_port
from wave_serve.engine.checkpoint import bundled_checkpoint
from wave_serve.engine.command import ONE_PROCESS
from wave_serve.keys.file import entry_for, new_key

LEASE = 6.0  # seconds
EXACT_RATE = 60  # requests a minute of the key "exact"
SLOTS = 4  # requests at the same time of the key "slots"
REAL = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}
GATEWAY = "from wave_serve.cli.main import main; main()"


class Part:
    """One process that can be killed, paused and started again; it notes since when it was last away."""

    def __init__(self, name: str, command: list[str], scratch: Path, environment: dict[str, str] | None = None) -> None:
        self.name = name
        self.command = command
        self._environment = os.environ | (environment or {})
        self.away: list[tuple[float, float]] = []
        self._away_since = 0.0
        self._log = scratch / f"{name}.log"
        self.start()

    def start(self) -> None:
        """Begins a life."""
        with self._log.open("ab") as out:
            self.process = subprocess.Popen(
                self.command, stdout=out, stderr=out, env=self._environment, start_new_session=True
            )

    def kill(self) -> None:
        """Ends it at once, with its children."""
        self._away_since = time.time()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def pause(self) -> None:
        """It keeps its connections and does nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on."""
        self.process.send_signal(signal.SIGCONT)

    def is_back(self) -> None:
        """It answers again after it was killed."""
        self.away.append((self._away_since, time.time()))


class World:
    """All parts and the files between them; the engines are stand-ins or, where they are `real`, vLLM's."""

    def __init__(self, scratch: Path, gateways: int, engines: int = 3, *, real: bool = False) -> None:
        self.scratch = scratch
        self.real = real
        self.keys = {name: new_key() for name in ("plain", "exact", "slots")}
        self.list = scratch / "engines.json"
        self._engine_port = free_port()
        self._addresses = iter(f"127.0.{third}.{fourth}" for third in range(1, 200) for fourth in range(1, 250))
        redis_port = free_port()
        program = shutil.which("redis-server") or shutil.which("valkey-server")
        if program is None:
            raise SystemExit("needs redis-server: apt-get install redis-server")
        command = [program, "--port", str(redis_port), "--bind", "127.0.0.1", "--save", "", "--dir", str(scratch)]
        self.redis_port = redis_port
        self.redis = Part("redis", command, scratch)
        self.engines = {address: self._engine(address) for address in self._take(engines)}
        self.write_list()
        self._write_keys()
        self.ports = [free_port() for _ in range(gateways)]
        self.gateways = [self._gateway(number, port, gateways) for number, port in enumerate(self.ports)]

    def write_list(self) -> None:
        """Has the gateways find the engines where they are now."""
        part = self.list.with_suffix(".part")
        part.write_text(json.dumps([f"http://{address}:{self._engine_port}" for address in self.engines]))
        part.rename(self.list)

    def move_engine(self, address: str) -> Part:
        """Starts an engine at another address in the place of one, which is returned and still runs."""
        (new,) = self._take(1)
        self.engines[new] = self._engine(new)
        old = self.engines.pop(address)
        self.write_list()
        return old

    def stop(self) -> None:
        """Ends everything."""
        for part in (*self.gateways, *self.engines.values(), self.redis):
            part.kill()

    def records(self) -> list[list[object]]:
        """What happened at all engines, in order."""
        lines = [line for file in self.scratch.glob("*.record") for line in file.read_text().splitlines()]
        return sorted((json.loads(line) for line in lines if line.endswith("]")), key=lambda line: float(line[0]))

    def _take(self, count: int) -> list[str]:
        return [next(self._addresses) for _ in range(count)]

    def _engine(self, address: str) -> Part:
        if self.real:
            command = [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry", *ONE_PROCESS]
            command += ["--model", str(bundled_checkpoint()), "--served-model-name", MODEL, "--enforce-eager"]
            command += ["--host", address, "--port", str(self._engine_port), "--disable-uvicorn-access-log"]
            command += ["--max-model-len", "8192"]
            return Part(f"engine-{address}", command, self.scratch, REAL)
        record = self.scratch / f"{address}.record"
        command = [sys.executable, "-m", "benchmarks.drill.engine", address, str(self._engine_port), str(record)]
        return Part(f"engine-{address}", command, self.scratch)

    def _gateway(self, number: int, port: int, gateways: int) -> Part:
        settings = {
            "port": port,
            "models": {MODEL: {"max_tokens": 8_000 if self.real else 10_000}},
            "upstreams": [{"file": str(self.list), "models": [MODEL]}],
            "discovery": {"every": 0.5},
            "auth": {"keys_file": str(self.scratch / "keys.yaml")},
            "limits": {"store": f"redis://127.0.0.1:{self.redis_port}", "lease": LEASE},
            "timeouts": {
                "poll": 0.3,
                "poll_answer": 1.0,
                "connect": 2.0,
                "silence": 45.0 if self.real else 15.0,
                "generation": 45.0,
            },
            "routing": {"new_documents": "hashed" if gateways > 1 else "least_loaded", "eject_first": 1.0},
            "admission": {"queue_deadline": 10.0, "max_requests": 32},
        }
        config = self.scratch / f"gateway-{number}.yaml"
        config.write_text(yaml.safe_dump(settings))
        return Part(
            f"gateway-{number}", [sys.executable, "-c", GATEWAY, "gateway", "--config", str(config)], self.scratch
        )

    def _write_keys(self) -> None:
        limits = {
            "plain": {"requests_per_minute": 10**6, "tokens_per_minute": 10**9},
            "exact": {"requests_per_minute": EXACT_RATE},
            "slots": {"concurrency": SLOTS},
        }
        lines = [entry_for(key, name, limits[name]) for name, key in self.keys.items()]
        (self.scratch / "keys.yaml").write_text("keys:\n" + "\n".join(lines) + "\n")
