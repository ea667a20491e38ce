"""The command and environment of the vLLM server that `serve` starts."""

import importlib.metadata
import importlib.util
import os
import socket
import sys
from collections.abc import Mapping, Sequence

from wave_serve.checkpoint import Checkpoint
from wave_serve.settings import EngineSettings

# Arguments that `serve` sets itself, and what to use instead.
OWNED = {
    "--model": "CHECKPOINT",
    "--host": "--host before the --",
    "--port": "--port before the --",
    "--uds": "--host and --port before the --",
    "--served-model-name": "--name",
    "--max-model-len": "--max-context",
    "--api-key": "the gateway in front of it",
    "--ssl-keyfile": "the gateway in front of it",
    "--ssl-certfile": "the gateway in front of it",
}


class EngineSetupError(ValueError):
    """The engine cannot be started as asked."""


def engine_command(
    checkpoint: Checkpoint, name: str, port: int, max_model_len: int, extra: Sequence[str]
) -> tuple[str, ...]:
    """Command line of the engine; `extra` comes last and so overrides the defaults.

    Raises:
        EngineSetupError: vLLM is not installed, or `extra` sets what `serve` sets.
    """
    if importlib.util.find_spec("vllm") is None:
        raise EngineSetupError("vLLM is not installed; install wave-serve[cpu] or wave-serve[gpu]")
    for argument in extra:
        flag = argument.partition("=")[0].replace("_", "-")
        if flag in OWNED:
            raise EngineSetupError(f"{flag} is set by wave-serve; use {OWNED[flag]} instead")
    return (
        sys.executable,
        # Not the `vllm` script: it looks for metadata of a package named vllm, which the CPU build does not have.
        *("-m", "vllm.entrypoints.launchers.api_server.entry"),
        *("--model", str(checkpoint.directory)),
        *("--served-model-name", name),
        *("--host", "127.0.0.1"),
        *("--port", str(port)),
        *("--max-model-len", str(max_model_len)),
        "--disable-uvicorn-access-log",
        "--enable-scale-out",  # opens the renderer, which counts a chat's tokens exactly
        *(("--enforce-eager",) if on_cpu() else ()),
        *extra,
    )


def engine_environment(settings: EngineSettings, environment: Mapping[str, str]) -> dict[str, str]:
    """The engine's environment: the caller's, with defaults where it says nothing."""
    defaults = {
        "VLLM_NO_USAGE_STATS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if on_cpu():
        defaults |= {
            "VLLM_CPU_KVCACHE_SPACE": str(settings.kv_cache_gib),
            # Threads pinned to the first cores would collide with other engines on the machine.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
        }
    return defaults | dict(environment)


def on_cpu() -> bool:
    """Whether the installed vLLM is a CPU build, told from its metadata."""
    try:
        return "+cpu" in importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return True


def free_port() -> int:
    """A port of the loopback interface that nothing listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
