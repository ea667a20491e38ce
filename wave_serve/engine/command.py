"""The command and environment of the vLLM server that `serve` starts."""

import importlib.metadata
import importlib.util
import json
import socket
import sys
from collections.abc import Mapping, Sequence

from wave_serve.engine.adapters import cpu_slots
from wave_serve.engine.arguments import EngineArguments, Flag
from wave_serve.engine.checkpoint import Checkpoint
from wave_serve.engine.errors import EngineSetupError
from wave_serve.engine.parallel import check_parallel, parallelism
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
ONE_PROCESS = (Flag.EXECUTOR, "vllm.v1.executor.uniproc_executor.UniProcExecutor")
# With these there may be several workers to a scheduler; `--config` names a file that may ask for them.
ANY_EXECUTOR = (Flag.EXECUTOR, Flag.CONFIG, Flag.NODES, Flag.DECODE_CONTEXT)
# On CPU a stage of a pipeline takes room for what the one before it sends while it is compiled, and fails at the first
# request where it is not. Tracing once for a compiler that does nothing is enough, and needs no C++ compiler.
TRACED = (Flag.COMPILATION, json.dumps({"mode": "DYNAMO_TRACE_ONCE", "backend": "eager"}))

ENGINE_KEY = "VLLM_API_KEY"
ENGINE_STORE = "VLLM_ENABLE_RESPONSES_API_STORE"
BINDING, NO_BINDING = "VLLM_CPU_OMP_THREADS_BIND", "nobind"


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
        EngineSetupError: vLLM is not installed, or `extra` sets what `serve` sets or asks for what cannot work.
    """
    if importlib.util.find_spec("vllm") is None:
        raise EngineSetupError("vLLM is not installed; install wave-serve[cpu] or wave-serve[gpu]")
    flags = [argument.partition("=")[0].replace("_", "-") for argument in extra]
    for flag in flags:
        if flag in OWNED:
            raise EngineSetupError(f"{flag} is set by wave-serve; use {OWNED[flag]} instead")
    arguments = EngineArguments(extra)
    check_parallel(arguments, checkpoint.config, on_cpu=on_cpu())
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
        *(_cpu_defaults(arguments, environment) if on_cpu() else ()),
        *extra,
    )


def _cpu_defaults(arguments: EngineArguments, environment: Mapping[str, str]) -> tuple[str, ...]:
    """How the CPU build runs best, or right, as far as those arguments leave it open."""
    divided = parallelism(arguments)
    traced = divided.stages > 1
    compilation = (() if Flag.COMPILATION in arguments else TRACED) if traced else (Flag.EAGER,)
    open_to_one = divided.workers == 1 and not any(flag in arguments for flag in ANY_EXECUTOR)
    executor = ONE_PROCESS if open_to_one and environment.get(BINDING) == NO_BINDING else ()
    return (*compilation, *executor, *cpu_slots(arguments))


def engine_environment(settings: EngineSettings, environment: Mapping[str, str]) -> dict[str, str]:
    """The engine's environment: the caller's, with defaults where it says nothing.

    On CPU each worker gets its share of the cores, or their threads would wait for one another.
    """
    defaults = {
        "VLLM_NO_USAGE_STATS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if on_cpu():
        defaults |= {
            "VLLM_CPU_KVCACHE_SPACE": str(settings.kv_cache_gib),
            # Threads pinned to the first cores would collide with other engines on the machine.
            BINDING: NO_BINDING,
            "OMP_NUM_THREADS": str(max(1, cores() // parallelism(EngineArguments(settings.args)).workers_here)),
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
