"""The supervisor with small real processes in the engine's place."""

import asyncio
import logging
import mmap
import os
import sys
import threading
import time
from pathlib import Path

import pytest
import uvloop

from wave_serve.engine import shared_memory
from wave_serve.engine.command import free_port
from wave_serve.engine.supervisor import EngineStartError, Supervisor
from wave_serve.settings import EngineSettings, TimeoutSettings
from wave_serve.upstream.upstream import Upstream

# Answers like a server until it is told to die; the child is what a worker process of the engine would be.
ENGINE = """
import http.server, json, os, subprocess, sys
port, scratch = int(sys.argv[1]), sys.argv[2]
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(scratch + "/pids", "a").write(f"{os.getpid()} {child.pid}\\n")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"data": [{"id": "m", "max_model_len": 10}]}).encode()
        self.send_response(200); self.send_header("content-length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
print("RuntimeError: the last words", flush=True)
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
SETTINGS = EngineSettings(restart_first=0.1, restart_most=0.3)
TIMEOUTS = TimeoutSettings(poll=0.05)


def make(program: str, scratch: Path) -> tuple[Supervisor, Upstream]:
    port = free_port()
    upstream = Upstream(f"http://127.0.0.1:{port}", ("m",), TIMEOUTS)
    command = (sys.executable, "-c", program, str(port), str(scratch))
    return Supervisor(command, os.environ, SETTINGS, upstream), upstream


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def until(holds) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def test_a_killed_engine_is_reported_and_restarted_with_growing_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> list[list[int]]:
        supervisor, upstream = make(ENGINE, tmp_path)
        first_ready = []
        watch = asyncio.create_task(upstream.watch())
        run = asyncio.create_task(supervisor.run(lambda: first_ready.append(True)))
        started: list[list[int]] = []
        for kills in range(4):
            await until(lambda: upstream.ready)
            lines = (tmp_path / "pids").read_text().splitlines()
            assert len(lines) == kills + 1
            started.append([int(pid) for pid in lines[-1].split()])
            if kills < 3:
                os.kill(started[-1][0], 9)
                await until(lambda: not upstream.ready)
        assert first_ready == [True]
        run.cancel()
        await supervisor.stop(2.0)
        watch.cancel()
        await asyncio.gather(run, watch, return_exceptions=True)
        await upstream.client.close()
        return started

    with caplog.at_level(logging.ERROR):
        started = asyncio.run(scenario())
    assert not [pid for pids in started for pid in pids if alive(pid)]
    reports = [record for record in caplog.records if "starting it again" in record.message]
    assert [record.message for record in reports] == [
        f"engine was killed by SIGKILL; starting it again in {wait} s" for wait in ("0.1", "0.2", "0.3")
    ]
    assert reports[0].fields["cause"] == "RuntimeError: the last words"
    assert reports[0].fields["log_tail"] == ["RuntimeError: the last words"]


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("raise ValueError('no such weights')", "ValueError: no such weights"),
        ("import sys; print('starting'); sys.exit(3)", "it ended with status 3; starting"),
        ("import os; os.kill(os.getpid(), 11)", "it was killed by SIGSEGV"),
    ],
)
def test_an_engine_that_never_was_ready_is_not_restarted(tmp_path: Path, program: str, said: str) -> None:
    supervisor, _ = make(program, tmp_path)
    with pytest.raises(EngineStartError) as caught:
        asyncio.run(supervisor.run(lambda: None))
    assert str(caught.value) == f"the engine did not start: {said} (--engine-log shows its whole log)"


def test_an_engine_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    async def scenario() -> list[int]:
        supervisor, upstream = make("import signal; signal.signal(15, signal.SIG_IGN)\n" + ENGINE, tmp_path)
        run = asyncio.create_task(supervisor.run(lambda: None))
        await until((tmp_path / "pids").exists)
        await until(lambda: (tmp_path / "pids").read_text().endswith("\n"))
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        await supervisor.stop(0.3)
        await upstream.client.close()
        return [int(pid) for pid in (tmp_path / "pids").read_text().split()]

    pids = asyncio.run(scenario())
    assert len(pids) == 2
    assert not [pid for pid in pids if alive(pid)]


SHARING = """
import multiprocessing, sys
from multiprocessing import resource_tracker, shared_memory
resource_tracker.register = lambda *_: None  # as of a worker whose tracker is killed with it
segments = [shared_memory.SharedMemory(create=True, size=4096) for _ in range(2)]
lock = multiprocessing.get_context("spawn").Lock()
names = [one._name.strip("/") for one in segments] + ["sem." + lock._semlock.name.strip("/")]
open(sys.argv[2] + "/shared", "w").write("\\n".join(names) + "\\n")
"""


def test_memory_that_a_killed_engine_shared_is_freed_unless_another_uses_it(tmp_path: Path) -> None:
    async def scenario() -> list[Path]:
        supervisor, upstream = make(SHARING + ENGINE, tmp_path)
        run = asyncio.create_task(supervisor.run(lambda: None))
        await until((tmp_path / "shared").exists)
        await until(lambda: (tmp_path / "shared").read_text().endswith("\n"))
        shared = [Path("/dev/shm", name) for name in (tmp_path / "shared").read_text().split()]  # noqa: S108
        assert [path for path in shared if not path.exists()] == []
        with shared[1].open("r+b") as file, mmap.mmap(file.fileno(), 0):
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)
            await supervisor.stop(0.3)
            await upstream.client.close()
        return shared

    shared = asyncio.run(scenario())
    assert [path.exists() for path in shared] == [False, True, False]
    shared[1].unlink()


@pytest.mark.parametrize("run", [uvloop.run, asyncio.run])
def test_the_engines_pipe_is_closed_once(run, tmp_path: Path) -> None:
    """A number that is closed again may have become another thread's file, or a client's connection."""
    supervisor, _ = make(ENGINE, tmp_path)
    lost: list[OSError] = []
    done = threading.Event()

    def open_and_close() -> None:
        while not done.is_set():
            owned = os.open(tmp_path, os.O_RDONLY)
            time.sleep(0)
            try:
                os.close(owned)
            except OSError as error:
                lost.append(error)

    async def read_to_the_end() -> None:
        read_end, write_end = os.pipe()
        reading = asyncio.create_task(supervisor._read(read_end))
        for text in (b"first\n", b"last\n"):
            os.write(write_end, text)
            await asyncio.sleep(0)
        os.close(write_end)
        await reading

    async def many_times() -> None:
        for _ in range(500):
            await read_to_the_end()

    others = [threading.Thread(target=open_and_close) for _ in range(4)]
    for other in others:
        other.start()
    try:
        run(many_times())
    finally:
        done.set()
        for other in others:
            other.join()
    assert supervisor._log.tail(2) == ["first", "last"]
    assert not lost


def test_memory_that_cannot_be_looked_up_stays_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shared_memory, "PROCESSES", tmp_path / "none")
    memory = shared_memory.SharedMemory()
    memory._inodes.add(1)
    memory.note(1)
    memory.free()
    assert [record.message for record in caplog.records] == ["shared memory not noted", "shared memory not freed"]
