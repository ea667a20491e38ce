"""Starts the engine, watches it, and starts it again with growing waits when it dies."""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from wave_serve.engine_log import EngineLog
from wave_serve.logs import event
from wave_serve.settings import EngineSettings
from wave_serve.upstream import Upstream

logger = logging.getLogger("wave_serve.supervisor")
PR_SET_PDEATHSIG = 1
TAIL_LINES = 20


class EngineStartError(RuntimeError):
    """The engine ended before it was ever ready; the message is the engine's own cause."""


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
                if ready_at is not None and not ever_ready:
                    ever_ready = True
                    on_first_ready()
                status = await ended
            finally:
                ready.cancel()
                ended.cancel()
            self._kill_group(process, signal.SIGKILL)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(output, 2.0)
            how = describe_exit(status)
            self._upstream.mark_down(f"the engine {how} and is being restarted")
            if not ever_ready:
                raise EngineStartError(self._log.cause() or "; ".join([how, *self._log.tail(1)]))
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
        self._kill_group(self._process, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), patience)
        self._kill_group(self._process, signal.SIGKILL)
        await self._process.wait()

    async def _start(self) -> tuple[asyncio.subprocess.Process, asyncio.Task[None]]:
        self._log.clear()
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(self._environment),
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        event(logger, logging.INFO, "engine started", pid=self._process.pid, base_url=self._upstream.base_url)
        output = cast("asyncio.StreamReader", self._process.stdout)
        return self._process, asyncio.create_task(self._read(output))

    async def _read(self, output: asyncio.StreamReader) -> None:
        while data := await output.read(2**16):
            self._log.feed(data)
            if self._settings.show_log:
                sys.stderr.buffer.write(data)
                sys.stderr.flush()

    def _kill_group(self, process: asyncio.subprocess.Process, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def describe_exit(status: int) -> str:
    """How a process ended, from its exit status (negative: a signal)."""
    if status >= 0:
        return f"ended with status {status}"
    return f"was killed by {signal.Signals(-status).name}"


_libc = ctypes.CDLL(None)


def _die_with_parent() -> None:
    """Runs in the engine's process: the kernel ends it when this process dies without having stopped it."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
