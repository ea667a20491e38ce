"""What vLLM's parallel arguments come to, and what of them is refused before anything is started."""

import json
from pathlib import Path

import pytest
from helpers import weight_files

from wave_serve.engine import command as engine
from wave_serve.engine.arguments import EngineArguments, Flag
from wave_serve.engine.checkpoint import inspect_checkpoint
from wave_serve.engine.command import engine_command, engine_environment
from wave_serve.engine.errors import EngineSetupError
from wave_serve.engine.parallel import Parallelism, parallelism
from wave_serve.settings import EngineSettings
from wave_serve.worker.cores import cores

CONFIG = {
    "model_type": "wavelet_llama",
    "vocab_size": 100,
    "hidden_size": 48,
    "intermediate_size": 90,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    weight_files.write(tmp_path / "model.safetensors", weight_files.llama(CONFIG))
    return tmp_path


def command(directory: Path, *extra: str) -> list[str]:
    environment = engine_environment(EngineSettings(args=extra), {})
    return list(engine_command(inspect_checkpoint(directory), "m", 1, 9, extra, environment))


@pytest.mark.parametrize(
    ("given", "flag", "value"),
    [
        (["--tensor-parallel-size", "2"], Flag.TENSOR, "2"),
        (["--tensor_parallel_size=2"], Flag.TENSOR, "2"),
        (["--tensor-parallel", "2"], Flag.TENSOR, "2"),
        (["-tp=2"], Flag.TENSOR, "2"),
        (["-tp", "4", "--max-num-seqs", "8", "-tp", "2"], Flag.TENSOR, "2"),
        (["-dpr", "-1"], Flag.DATA_START_RANK, "-1"),
        (["--data-parallel-size", "2"], Flag.DATA, "2"),
        (["--speculative-config", '{"method": "ngram"}', "-pp", "3"], Flag.PIPELINE, "3"),
    ],
)
def test_every_way_to_write_an_option_is_read(given: list[str], flag: Flag, value: str) -> None:
    assert EngineArguments(given).word(flag) == value


def test_an_option_may_have_many_values_or_none() -> None:
    arguments = EngineArguments(["--enable-lora", "--lora-modules", "a=/a", "b=/b", "--max-lora-rank", "8"])
    assert arguments.all(Flag.LORA_MODULES) == ("a=/a", "b=/b")
    assert Flag.LORA in arguments
    assert arguments.word(Flag.LORA) is None
    assert Flag.EAGER not in arguments


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], Parallelism(1, 1, 1, 1)),
        (["-tp", "2", "-pp", "3"], Parallelism(6, 3, 1, 6)),
        (["-tp", "2", "-dp", "4"], Parallelism(2, 1, 4, 8)),
        (["-tp", "2", "-dp", "4", "-dpl", "1"], Parallelism(2, 1, 4, 2)),
        (["-tp", "2", "-pp", "2", "--nnodes", "2"], Parallelism(4, 2, 1, 2)),
        (["-tp", "two"], Parallelism(1, 1, 1, 1)),
    ],
)
def test_workers_are_counted_on_this_machine_and_in_all(given: list[str], expected: Parallelism) -> None:
    assert parallelism(EngineArguments(given)) == expected


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["-tp", "4"], "--tensor-parallel-size 4: it has to divide num_attention_heads, which is 6"),
        (["-tp=3"], "--tensor-parallel-size 3: it has to divide num_key_value_heads, which is 2, or be a multiple"),
        (["-pp", "4"], "--pipeline-parallel-size 4: each stage needs a layer, and num_hidden_layers is 3"),
        (["--distributed-executor-backend", "ray"], "--distributed-executor-backend ray: vLLM's CPU build does not"),
        (["-dp", "2", "-dpb=ray"], "--data-parallel-backend ray: vLLM's CPU build does not run on Ray"),
        (["-pp", "2", "--enforce-eager"], "--pipeline-parallel-size 2: without compilation vLLM's CPU build fails"),
        (["-pp", "2", "-sc", "{}"], "--speculative-config {}: vLLM's CPU build drafts no tokens in a pipeline"),
        (["--headless"], "--headless: `serve` runs the first node"),
        (["--nnodes", "2", "--node-rank", "1"], "--node-rank 1: `serve` runs the first node"),
        (["-asc", "2"], "--api-server-count 2: `serve` starts one API server"),
        (["-dp", "2", "-dpn", "0"], "--data-parallel-rank 0: its ranks have servers of their own"),
        (["-dp", "2", "--data-parallel-hybrid-lb"], "--data-parallel-hybrid-lb: its ranks have servers of their own"),
    ],
)
def test_what_cannot_work_is_refused_with_its_name_and_value(directory: Path, extra: list[str], said: str) -> None:
    with pytest.raises(EngineSetupError) as caught:
        command(directory, *extra)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_the_inner_width_is_shared_out_too(directory: Path) -> None:
    (directory / "config.json").write_text(json.dumps(CONFIG | {"intermediate_size": 91}))
    weight_files.write(directory / "model.safetensors", weight_files.llama(CONFIG | {"intermediate_size": 91}))
    with pytest.raises(EngineSetupError, match="--tensor-parallel-size 2: it has to divide intermediate_size"):
        command(directory, "-tp", "2")


@pytest.mark.parametrize("extra", [["-tp", "6"], ["-tp", "2", "-pp", "3"], ["--api-server-count", "1"], ["-dp", "2"]])
def test_what_can_be_shared_out_is_passed_on(directory: Path, extra: list[str]) -> None:
    assert command(directory, *extra)[-len(extra) :] == extra


def test_ray_is_for_others_than_the_cpu_build(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "on_cpu", lambda: False)
    extra = ["-tp", "2", "--distributed-executor-backend", "ray"]
    assert command(directory, *extra)[-4:] == extra


def test_on_cpu_a_pipeline_is_traced_instead_of_run_eagerly(directory: Path) -> None:
    found = command(directory, "-pp", "2")
    assert Flag.EAGER not in found
    assert json.loads(found[found.index(Flag.COMPILATION) + 1])["backend"] == "eager"
    assert Flag.EAGER in command(directory, "-tp", "2")
    mine = command(directory, "-pp", "2", "-cc", '{"mode": 3}')
    assert Flag.COMPILATION not in mine
    assert Flag.EAGER not in mine


@pytest.mark.parametrize(("extra", "workers"), [((), 1), (("-tp", "2"), 2), (("-tp", "2", "-dp", "2"), 4)])
def test_workers_on_cpu_share_its_cores(extra: tuple[str, ...], workers: int) -> None:
    environment = engine_environment(EngineSettings(args=extra), {})
    assert int(environment["OMP_NUM_THREADS"]) == max(1, cores() // workers)
    given = {"OMP_NUM_THREADS": "7"}
    assert engine_environment(EngineSettings(args=extra), given)["OMP_NUM_THREADS"] == "7"
