"""The command and environment of the vLLM server that `serve` starts."""

import importlib.metadata
import importlib.util
import re
import socket
import sys
from collections.abc import Mapping, Sequence

from wave_serve.engine.checkpoint import Checkpoint
from wave_serve.errors import ExplainedError
from wave_serve.settings import EngineSettings
from wave_serve.worker.cores import cores

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

# vLLM's CPU build runs the model in a second process, in order to set OpenMP's environment there. Its scheduler waits
# for that process in a busy loop (sched_yield), which burns a core that the attention kernel needs; on Linux 6.18 the
# API server and the gateway then get almost no processor time while a generation lasts. `engine_environment` sets
# OpenMP's environment before vLLM starts, so the second process is not needed.
ONE_PROCESS = ("--distributed-executor-backend", "vllm.v1.executor.uniproc_executor.UniProcExecutor")
# Arguments that may ask for more; `--config` names a file that may.
SEVERAL_PROCESSES = re.compile(r"--(distributed-executor-backend|config|nnodes|.*-parallel-.*)|-(n|[tpd]p|[pd]cp)")

ENGINE_KEY = "VLLM_API_KEY"
ENGINE_STORE = "VLLM_ENABLE_RESPONSES_API_STORE"
BINDING, NO_BINDING = "VLLM_CPU_OMP_THREADS_BIND", "nobind"


class EngineSetupError(ExplainedError, ValueError):
    """The engine cannot be started as asked."""


def engine_command(
    checkpoint: Checkpoint,
    name: str,
    port: int,
    max_model_len: int,
    extra: Sequence[str],
    environment: Mapping[str, str],
) -> tuple[str, ...]:
    """Command line of the engine in that environment; `extra` comes last and so overrides the defaults.

    Raises:
        EngineSetupError: vLLM is not installed, or `extra` sets what `serve` sets.
    """
    if importlib.util.find_spec("vllm") is None:
        raise EngineSetupError("vLLM is not installed; install wave-serve[cpu] or wave-serve[gpu]")
    flags = [argument.partition("=")[0].replace("_", "-") for argument in extra]
    for flag in flags:
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
        *(ONE_PROCESS if on_cpu() and environment.get(BINDING) == NO_BINDING and not several_processes(flags) else ()),
        *extra,
    )


def several_processes(flags: Sequence[str]) -> bool:
    """Whether some of vLLM's arguments may ask for workers in processes of their own."""
    return any(SEVERAL_PROCESSES.fullmatch(flag) for flag in flags)


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
            BINDING: NO_BINDING,
            "OMP_NUM_THREADS": str(cores()),
        }
    return defaults | dict(environment)


def engine_key(environment: Mapping[str, str]) -> str | None:
    """Where the key stands that an engine in that environment asks for, as settings name it; None without one."""
    return f"env:{ENGINE_KEY}" if environment.get(ENGINE_KEY) else None


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
