"""Seeded sampling on a CPU of prompts that are read in parts.

A step that reads a part of a prompt samples a token all the same, which vLLM discards; and it rewinds the random
generator of a request with a ``seed`` as if none had been drawn, by an offset that only CUDA's generators have. On a
CPU that ended the engine with all its requests (vLLM 0.32). Here a discarded token is drawn without the request's
generator instead, so that there is nothing to rewind.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache, wraps
from typing import TYPE_CHECKING, Any

from vllm.v1.worker.gpu_model_runner import GPUModelRunner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATCHED = ("_sample", "_bookkeeping_sync")


@cache
def draw_discarded_tokens_unseeded() -> None:
    """Change how this process' model runners sample and keep books; a second call changes nothing."""
    for name in PATCHED:
        setattr(GPUModelRunner, name, _without_discarded_seeds(getattr(GPUModelRunner, name)))


def _without_discarded_seeds(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def call(runner: Any, *arguments: Any, **options: Any) -> Any:
        with _without_generators_of_discarded(runner):
            return method(runner, *arguments, **options)

    return call


@contextmanager
def _without_generators_of_discarded(runner: Any) -> Iterator[None]:
    generators = runner.input_batch.generators
    requests = runner.discard_request_mask.np[: runner.input_batch.num_reqs].nonzero()[0].tolist()
    hidden = {request: generators.pop(request) for request in requests if request in generators}
    try:
        yield
    finally:
        generators.update(hidden)
