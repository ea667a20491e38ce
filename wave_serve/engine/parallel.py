"""Into how many processes vLLM's arguments divide an engine, and what of it cannot work, told before it starts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wave_serve.engine.arguments import EngineArguments, Flag
from wave_serve.engine.errors import EngineSetupError

RAY = "ray"
LLAMA = ("llama", "wavelet_llama")
OTHER_NODES = "`serve` runs the first node; on each other node run `vllm serve` itself with it"
OWN_SERVERS = (
    "its ranks have servers of their own; start those with `vllm serve` and list them under upstreams of "
    "`wave-serve gateway`"
)
NOT_WITH_SERVE = {
    Flag.HEADLESS: OTHER_NODES,
    Flag.DATA_RANK: OWN_SERVERS,
    Flag.DATA_START_RANK: OWN_SERVERS,
    Flag.DATA_HYBRID: OWN_SERVERS,
    Flag.DATA_EXTERNAL: OWN_SERVERS,
    Flag.DATA_SUPERVISED: OWN_SERVERS,
}
"""Options of `vllm serve` that the server which `serve` starts would not heed, and what to do instead."""


@dataclass(frozen=True)
class Parallelism:
    """How an engine is divided.

    Attributes:
        workers: processes that share one copy of the model (tensor x pipeline x context parallel).
        stages: of the pipeline, each with layers of its own.
        replicas: copies of the model (data parallel).
        workers_here: worker processes on this machine, of all replicas.
    """

    workers: int
    stages: int
    replicas: int
    workers_here: int


def parallelism(arguments: EngineArguments) -> Parallelism:
    """How those arguments divide the engine."""
    stages = arguments.count(Flag.PIPELINE)
    workers = arguments.count(Flag.TENSOR) * stages * arguments.count(Flag.PREFILL_CONTEXT)
    replicas = arguments.count(Flag.DATA)
    replicas_here = arguments.count(Flag.DATA_LOCAL) if Flag.DATA_LOCAL in arguments else replicas
    nodes = arguments.count(Flag.NODES)
    here = workers * replicas // nodes if nodes > 1 else workers * replicas_here
    return Parallelism(workers, stages, replicas, max(1, here))


def check_parallel(arguments: EngineArguments, config: Mapping[str, Any], *, on_cpu: bool) -> None:
    """Refuses what could only fail or hang later.

    Args:
        arguments: vLLM's.
        config: the checkpoint's config.json.
        on_cpu: whether vLLM is the CPU build.

    Raises:
        EngineSetupError: names the option, its value and the reason.
    """
    for flag, instead in NOT_WITH_SERVE.items():
        if flag in arguments:
            raise _refused(arguments, flag, instead)
    if arguments.count(Flag.API_SERVERS) > 1:
        raise _refused(arguments, Flag.API_SERVERS, "`serve` starts one API server, behind which are all replicas")
    if (arguments.word(Flag.NODE_RANK) or "0") != "0":
        raise _refused(arguments, Flag.NODE_RANK, OTHER_NODES)
    _check_division(arguments, config)
    if on_cpu:
        _check_cpu(arguments)


def _check_division(arguments: EngineArguments, config: Mapping[str, Any]) -> None:
    """Whether heads, layers and the inner width can be shared out."""
    tensor, stages = arguments.count(Flag.TENSOR), arguments.count(Flag.PIPELINE)
    heads, layers = config["num_attention_heads"], config["num_hidden_layers"]
    if heads % tensor:
        raise _refused(arguments, Flag.TENSOR, f"it has to divide num_attention_heads, which is {heads}")
    if stages > layers:
        raise _refused(arguments, Flag.PIPELINE, f"each stage needs a layer, and num_hidden_layers is {layers}")
    if config["model_type"] not in LLAMA:
        return
    key_heads = config.get("num_key_value_heads") or heads
    if key_heads % tensor and tensor % key_heads:
        reason = f"it has to divide num_key_value_heads, which is {key_heads}, or be a multiple of it"
        raise _refused(arguments, Flag.TENSOR, reason)
    inner = config.get("intermediate_size")
    if isinstance(inner, int) and inner % tensor:
        raise _refused(arguments, Flag.TENSOR, f"it has to divide intermediate_size, which is {inner}")


def _check_cpu(arguments: EngineArguments) -> None:
    for flag in (Flag.EXECUTOR, Flag.DATA_BACKEND):
        if arguments.word(flag) == RAY:
            raise _refused(arguments, flag, "vLLM's CPU build does not run on Ray; use mp, on one machine")
    if arguments.count(Flag.PIPELINE) == 1:
        return
    if Flag.EAGER in arguments:
        reason = (
            f"without compilation vLLM's CPU build fails at the first request of a pipeline; leave out {Flag.EAGER}, "
            "and `serve` asks for what works"
        )
        raise _refused(arguments, Flag.PIPELINE, reason)
    if Flag.SPECULATIVE in arguments:
        reason = "vLLM's CPU build drafts no tokens in a pipeline, whose first stages fail at their start"
        raise _refused(arguments, Flag.SPECULATIVE, reason)


def _refused(arguments: EngineArguments, flag: Flag, reason: str) -> EngineSetupError:
    given = " ".join([flag, *arguments.all(flag)])
    return EngineSetupError(f"{given}: {reason}")
