"""Starts the engine, watches it, and starts it again with growing waits when it dies."""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence

from wave_serve.engine.log import EngineLog
from wave_serve.engine.shared_memory import SharedMemory
from wave_serve.errors import ExplainedError
from wave_serve.logs import event
from wave_serve.settings import EngineSettings
from wave_serve.upstream.upstream import Upstream

logger = logging.getLogger("wave_serve.supervisor")
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
REAP_SECONDS = 2.0
TAIL_LINES = 20


class EngineStartError(ExplainedError, RuntimeError):
    """The engine ended before it was ever ready; the message gives the engine's own cause."""


class Supervisor:
    """One engine process and its descendants, which form a process group of their own."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], settings: EngineSettings, upstream: Upstream
    ) -> None:
        self._command = command
        self._environment = environment
        self._settings = settings
        self._upstream = upstream
        self._process: asyncio.subprocess.Process | None = None
        self._log = EngineLog()
        self._memory = SharedMemory()

    async def run(self, on_first_ready: Callable[[], None]) -> None:
        """Keeps the engine alive until cancelled. Raises EngineStartError where it ends before it was ever ready."""
        ever_ready = False
        wait = self._settings.restart_first
        loop = asyncio.get_running_loop()
        while True:
            process, output = await self._start()
            ended = asyncio.create_task(process.wait())
            ready = asyncio.create_task(self._upstream.wait_ready())
            try:
                await asyncio.wait({ended, ready}, return_when=asyncio.FIRST_COMPLETED)
                ready_at = loop.time() if ready.done() and not ended.done() else None
                await asyncio.to_thread(self._memory.note, process.pid)
                if ready_at is not None and not ever_ready:
                    ever_ready = True
                    on_first_ready()
                status = await ended
            finally:
                ready.cancel()
                ended.cancel()
            await self._end(process.pid)
            await asyncio.wait({output}, timeout=REAP_SECONDS)
            how = describe_exit(status)
            self._upstream.mark_down(f"the engine {how} and is being restarted")
            if not ever_ready:
                cause = self._log.cause() or "; ".join([f"it {how}", *self._log.tail(1)])
                raise EngineStartError(f"the engine did not start: {cause} (--engine-log shows its whole log)")
            if ready_at is not None and loop.time() - ready_at >= self._settings.healthy_after:
                wait = self._settings.restart_first
            event(
                logger,
                logging.ERROR,
                f"engine {how}; starting it again in {wait:g} s",
                pid=process.pid,
                cause=self._log.cause(),
                log_tail=self._log.tail(TAIL_LINES),
            )
            await asyncio.sleep(wait)
            wait = min(2 * wait, self._settings.restart_most)

    async def stop(self, patience: float) -> None:
        """Ends the engine and all its descendants: SIGTERM, and after `patience` seconds SIGKILL."""
        if self._process is None:
            return
        await asyncio.to_thread(self._memory.note, self._process.pid)
        _signal_group(self._process.pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), patience)
        _signal_group(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        await self._end(self._process.pid)

    async def _end(self, group: int) -> None:
        """Ends what is left of the engine, and frees the memory that its processes shared."""
        await asyncio.to_thread(self._memory.note, group)
        await _end_group(group)
        await asyncio.to_thread(self._memory.free)

    async def _start(self) -> tuple[asyncio.subprocess.Process, asyncio.Task[None]]:
        self._log.clear()
        _libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
        # A pipe of our own: Process.wait() would wait for the end of asyncio's, which a worker may keep open.
        read_end, write_end = os.pipe()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=write_end,
                stderr=asyncio.subprocess.STDOUT,
                env=dict(self._environment),
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        finally:
            os.close(write_end)
        event(logger, logging.INFO, "engine started", pid=self._process.pid, base_url=self._upstream.base_url)
        return self._process, asyncio.create_task(self._read(read_end))

    async def _read(self, read_end: int) -> None:
        # Not connect_read_pipe: uvloop closes the descriptor by its number, and the file that it was given closes it
        # too. By the second time the number may be a client's connection.
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        os.set_blocking(read_end, False)
        loop.add_reader(read_end, readable.set)
        try:
            while await readable.wait():
                readable.clear()
                with contextlib.suppress(BlockingIOError):
                    data = os.read(read_end, 2**16)
                    if not data:
                        return
                    self._log.feed(data)
                    if self._settings.show_log:
                        sys.stderr.buffer.write(data)
                        sys.stderr.flush()
        finally:
            loop.remove_reader(read_end)
            os.close(read_end)


def describe_exit(status: int) -> str:
    """How a process ended, from its exit status (negative: a signal)."""
    if status >= 0:
        return f"ended with status {status}"
    return f"was killed by {signal.Signals(-status).name}"


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


async def _end_group(group: int) -> None:
    """Kills what is left of a group whose leader has ended, and reaps it: as a subreaper we inherit its orphans."""
    _signal_group(group, signal.SIGKILL)
    deadline = asyncio.get_running_loop().time() + REAP_SECONDS
    with contextlib.suppress(ChildProcessError):
        while asyncio.get_running_loop().time() < deadline:
            if os.waitpid(-group, os.WNOHANG)[0] == 0:  # noqa: ASYNC222 - WNOHANG returns at once
                await asyncio.sleep(0.01)


_libc = ctypes.CDLL(None)


def _die_with_parent() -> None:
    """Runs in the engine's process: the kernel ends it when this process dies without having stopped it."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
