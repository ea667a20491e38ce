"""Runs the gateway, alone or together with an engine of its own, until a signal or a fatal error."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from wave_serve.api.app import build_app
from wave_serve.api.page.route import is_on
from wave_serve.context.cap import bounds
from wave_serve.context.zones import zones_of
from wave_serve.engine.adapters import adapter_names
from wave_serve.engine.arguments import EngineArguments
from wave_serve.engine.checkpoint import bundled_checkpoint, inspect_checkpoint
from wave_serve.engine.command import (
    ENGINE_KEY,
    ENGINE_STORE,
    engine_command,
    engine_environment,
    engine_key,
    free_port,
)
from wave_serve.engine.errors import EngineSetupError
from wave_serve.engine.policy import served_models
from wave_serve.engine.supervisor import REAP_SECONDS, Supervisor
from wave_serve.gateway import Gateway
from wave_serve.keys.file import ENVIRONMENT
from wave_serve.logs import event
from wave_serve.relay.relay import FAREWELL_SECONDS
from wave_serve.run.reload import Reload, SettingsSource
from wave_serve.run.server import Server, listen, make_server, run_loop
from wave_serve.settings import Settings, UpstreamSettings
from wave_serve.settings.address import local_url

logger = logging.getLogger("wave_serve.serve")
STDIN = 0
SLACK_SECONDS = 1.0  # for uvicorn, which counts in whole seconds and looks ten times in each


def run_gateway(source: SettingsSource, on_ready: Callable[[str], None]) -> None:
    """Serves until SIGINT or SIGTERM. Raises SettingsError, ListenError or TokenizerError."""
    settings = source.read()
    gateway = Gateway(settings)
    sock = listen(settings.host, settings.port)
    on_ready(f"listening on {local_url(settings.host, settings.port)}")
    run_loop(_run(gateway, source, sock, None, lambda: None))


def run_with_engine(
    source: SettingsSource,
    checkpoint_path: Path | None,
    name: str | None,
    max_context: int | None,
    on_ready: Callable[[str, str, bool], None],
) -> None:
    """Serves a checkpoint with an engine of its own until SIGINT or SIGTERM.

    Raises:
        CheckpointError, EngineSetupError, ListenError, SettingsError, TokenizerError: before anything is started.
        EngineStartError: the engine did not start.
    """
    settings = source.read()
    if settings.upstreams:
        raise EngineSetupError("upstreams belong to `wave-serve gateway`; `serve` starts an engine of its own")
    checkpoint = inspect_checkpoint(checkpoint_path or bundled_checkpoint())
    served = name or checkpoint.name
    adapters = adapter_names(EngineArguments(settings.engine.args), served)
    model = served_models(settings, checkpoint, served, adapters, max_context)[served]
    zones = zones_of(model.train_length, model.validated_length, model.zones)
    limit = min(bounds(model, zones, checkpoint.max_position_embeddings, None).values())
    port = free_port()
    environment = engine_environment(settings.engine, os.environ)
    command = engine_command(checkpoint, served, port, limit, settings.engine.args, environment)
    key = engine_key(environment)
    keeps = environment.get(ENGINE_STORE) == "1"
    root = f"http://127.0.0.1:{port}"
    upstream = UpstreamSettings(base_url=root, models=(served, *adapters), api_key=key, keeps_responses=keeps)
    if key is not None:
        theirs = f"its clients' keys are those of auth.keys_file and {ENVIRONMENT}"
        event(logger, logging.WARNING, f"{ENGINE_KEY} guards the engine, and not the gateway before it; {theirs}")

    def complete(given: Settings) -> Settings:
        models = served_models(given, checkpoint, served, adapters, max_context)
        return given.model_copy(update={"models": models, "upstreams": (upstream,)})

    settings = complete(settings)
    gateway = Gateway(settings)
    sock = listen(settings.host, settings.port)
    supervisor = Supervisor(command, environment, settings.engine, gateway.upstreams[0])
    url = local_url(settings.host, settings.port)
    run_loop(_run(gateway, source.then(complete), sock, supervisor, lambda: on_ready(url, served, is_on(gateway))))


async def _run(
    gateway: Gateway,
    source: SettingsSource,
    sock: socket.socket,
    supervisor: Supervisor | None,
    on_ready: Callable[[], None],
) -> None:
    timeouts = gateway.settings.timeouts
    if not gateway.auth.guarded and not gateway.settings.on_loopback:
        event(logger, logging.WARNING, "no API keys: open to whoever reaches the port", host=gateway.settings.host)
    # As long as it takes to end the engine and to tell every client that reads; one that does not is not waited for.
    ending = 0.0 if supervisor is None else timeouts.stop + REAP_SECONDS
    grace = timeouts.drain + FAREWELL_SECONDS + SLACK_SECONDS + ending
    server = make_server(build_app(gateway), gateway.settings, grace)
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked.set)
    reload = Reload(gateway, source)
    had_terminal = os.isatty(STDIN)

    def hang_up() -> None:
        """SIGHUP asks for a reload, unless it comes because the terminal was closed."""
        if had_terminal and not os.isatty(STDIN):
            asked.set()
        else:
            reload.ask()

    loop.add_signal_handler(signal.SIGHUP, hang_up)
    watching = asyncio.create_task(reload.watch())
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    stopping = asyncio.create_task(asked.wait())
    tasks: set[asyncio.Task[object]] = {serving, stopping}
    engine = None if supervisor is None else asyncio.create_task(supervisor.run(on_ready))
    if engine is not None:
        tasks.add(engine)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if engine is not None and engine.done():
            engine.result()
    finally:
        await _shut_down(gateway, server, serving, supervisor, engine)
        stopping.cancel()
        watching.cancel()


async def _shut_down(
    gateway: Gateway,
    server: Server,
    serving: asyncio.Task[None],
    supervisor: Supervisor | None,
    engine: asyncio.Task[None] | None,
) -> None:
    """Lets running and waiting requests finish for a while, then ends them with an error event, and the engine.

    A client that has not taken its answer or that error by then is cut off.
    """
    timeouts = gateway.settings.timeouts
    gateway.drain.begin()
    server.stop()
    await asyncio.wait({serving}, timeout=timeouts.drain)
    gateway.drain.end()
    await asyncio.wait({serving}, timeout=FAREWELL_SECONDS)
    server.cut_off()
    if engine is not None and supervisor is not None:
        engine.cancel()
        await asyncio.gather(engine, return_exceptions=True)
        await supervisor.stop(timeouts.stop)
    await serving
