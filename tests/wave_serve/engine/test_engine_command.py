"""The engine's command line: one process on CPU, unless something asks for several."""

import itertools
from pathlib import Path

import pytest

from wave_serve.engine import command as engine
from wave_serve.engine.checkpoint import inspect_checkpoint
from wave_serve.engine.command import engine_command, engine_environment, engine_key
from wave_serve.settings import EngineSettings


def command(checkpoint: Path, extra: list[str], environment: dict[str, str]) -> list[str]:
    """What `serve` would start on that machine."""
    whole = engine_environment(EngineSettings(), environment)
    return list(engine_command(inspect_checkpoint(checkpoint), "m", 1, 9, extra, whole))


def executor(arguments: list[str]) -> list[str]:
    return [value for flag, value in itertools.pairwise(arguments) if flag == engine.ONE_PROCESS[0]]


@pytest.mark.parametrize("extra", [[], ["--max-num-seqs", "8"], ["--dtype=float32"], ["--data-parallel-size", "2"]])
def test_on_cpu_the_model_and_its_scheduler_share_a_process(checkpoint: Path, extra: list[str]) -> None:
    assert executor(command(checkpoint, extra, {})) == [engine.ONE_PROCESS[1]]


@pytest.mark.parametrize(
    "extra",
    [
        ["--tensor-parallel-size", "2"],
        ["--tensor_parallel_size=2"],
        ["-tp", "2"],
        ["-pp=2"],
        ["--tensor-parallel-size", "2", "--data-parallel-size", "2"],
        ["--tensor-parallel", "2"],
        ["--decode-context-parallel-size", "2"],
        ["--nnodes", "2"],
        ["--config", "vllm.yaml"],
    ],
)
def test_several_processes_are_vllms_own_choice(checkpoint: Path, extra: list[str]) -> None:
    assert executor(command(checkpoint, extra, {})) == []


def test_an_executor_that_is_named_is_the_only_one(checkpoint: Path) -> None:
    assert executor(command(checkpoint, ["--distributed-executor-backend", "mp"], {})) == ["mp"]


def test_threads_to_be_bound_are_left_to_vllm_which_binds_those_of_a_process_of_its_own(checkpoint: Path) -> None:
    assert executor(command(checkpoint, [], {"VLLM_CPU_OMP_THREADS_BIND": "0-1"})) == []


def test_on_gpu_vllm_chooses(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "on_cpu", lambda: False)
    assert executor(command(checkpoint, [], {})) == []


@pytest.mark.parametrize(
    ("environment", "key"), [({}, None), ({"VLLM_API_KEY": ""}, None), ({"VLLM_API_KEY": "x"}, "env:VLLM_API_KEY")]
)
def test_the_key_that_an_engine_asks_for_is_found(environment: dict[str, str], key: str | None) -> None:
    assert engine_key(environment) == key
