"""Real vLLM against the dense float32 Hugging Face model; `helpers/engine_parity.py` says what one case is."""

import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import pytest
from helpers.python import ROOT

pytestmark = pytest.mark.engine

SCRIPT = ROOT / "tests/helpers/engine_parity.py"
WAVELETS = ("ricker", "gaussian", "morlet", "haar")
HEADS = {"plain": (4, 4), "grouped": (4, 2), "multi-query": (4, 1)}
SCALE_EXPONENTS = {32: range(8), 64: range(16), 128: range(2, 10)}  # 64: R is far longer than any prompt
SCALINGS = {"none": {}, "log_n": {}, "log_n from 32": {"logit_scaling": "log_n", "logit_scaling_length": 32}}
FLOAT32_BOUND = 1e-3
CORE_EACH = "0|1"  # for two ranks


def wavelet_case(wavelet: str, heads: str, head_dim: int, scaling: str, dtype: str = "float32") -> dict:
    exponents = list(SCALE_EXPONENTS[head_dim])
    return {
        "name": f"{wavelet}-{heads}-d{head_dim}-{scaling}-{dtype}",
        "heads": HEADS[heads][0],
        "kv_heads": HEADS[heads][1],
        "head_dim": head_dim,
        "logit_scaling": scaling,
        **SCALINGS[scaling],
        "dtype": dtype,
        "position_encoding": {
            "type": "wavelet",
            "wavelet": wavelet,
            "scale_exponents": exponents,
            "shifts": list(range(head_dim // len(exponents))),
        },
    }


def variant(case: dict, name: str, **changes: object) -> dict:
    return {**case, "name": f"{case['name']}-{name}", **changes}


def plain_case(position: str, scaling: str) -> dict:
    case = wavelet_case("ricker", "grouped", 32, scaling)
    return {**case, "name": f"{position}-{scaling}", "position_encoding": {"type": position}}


FULL_MATRIX = [wavelet_case(*choice) for choice in product(WAVELETS, HEADS, SCALE_EXPONENTS, SCALINGS)]
# Every wavelet meets every head layout, every head size and every scaling, and so do these one another.
COVERING = [
    wavelet_case(wavelet, heads, tuple(SCALE_EXPONENTS)[(row + column) % 3], tuple(SCALINGS)[(row + 2 * column) % 3])
    for row, wavelet in enumerate(WAVELETS)
    for column, heads in enumerate(HEADS)
]
# Fewer near keys than the table has rows, and more.
NEAR_BIASED = [
    variant(case, f"bonus-for-{keys}", near_bias_slope=slope, near_bias_keys=keys)
    for case, slope, keys in (
        (wavelet_case("ricker", "grouped", 32, "log_n"), 0.8, 100),
        (wavelet_case("haar", "multi-query", 128, "none"), 0.5, 1500),
    )
]
OTHER_POSITIONS = [plain_case("rope", "log_n"), plain_case("alibi", "none"), plain_case("nope", "log_n")]
BFLOAT16 = [wavelet_case("ricker", "grouped", 64, "log_n", "bfloat16")]
TENSOR_PARALLEL = [wavelet_case("ricker", "grouped", 32, "log_n")]
# With one head of keys to two ranks each rank has it whole. The rest with --full-matrix.
MORE_TENSOR_PARALLEL = [
    wavelet_case("haar", "multi-query", 32, "none"),
    wavelet_case("ricker", "grouped", 64, "log_n", "bfloat16"),
]
NGRAMS = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 4, "prompt_lookup_min": 1}
DRAFTED = variant(wavelet_case("ricker", "grouped", 32, "log_n"), "drafted", engine={"speculative_config": NGRAMS})
ADAPTED = variant(wavelet_case("ricker", "grouped", 32, "log_n"), "adapted", engine={"enable_lora": True}, adapter=True)
INT8 = variant(wavelet_case("ricker", "grouped", 32, "log_n"), "int8", int8=True)
# As `wave-serve serve` asks for on CPU; two stages of one and two layers.
TRACED = {"enforce_eager": False, "compilation_config": {"mode": "DYNAMO_TRACE_ONCE", "backend": "eager"}}
PIPELINE = [
    variant(case, "pipeline", engine=TRACED | {"pipeline_parallel_size": 2})
    for case in (wavelet_case("ricker", "grouped", 32, "log_n"), *BFLOAT16)
]


def run_parity(cases: list[dict], folder: Path, tensor_parallel: int = 1, *, cores: str = "auto") -> dict[str, dict]:
    """Results by case name, from an engine process of its own; `cores` is vLLM's VLLM_CPU_OMP_THREADS_BIND."""
    (folder / "cases.json").write_text(json.dumps(cases))
    environment = {**os.environ, "VLLM_CPU_OMP_THREADS_BIND": cores}
    command = [sys.executable, SCRIPT, folder / "cases.json", folder / "results.json"]
    finished = subprocess.run(
        [*command, "--tensor-parallel", str(tensor_parallel)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout[-2000:] + finished.stderr[-4000:]
    return {result["case"]["name"]: result for result in json.loads((folder / "results.json").read_text())}


def assert_float32_parity(result: dict) -> None:
    assert result["position_effect"] > 100 * FLOAT32_BOUND, "a wrong position term would not show in this case"
    assert result["cached_tokens"] > 1700, "the continuation did not come from the prefix cache"
    assert result["prefill"] <= FLOAT32_BOUND
    assert result["decode"] <= FLOAT32_BOUND


def assert_bfloat16_parity(result: dict) -> None:
    assert math.isfinite(result["prefill"])
    assert 0 < result["prefill_rms"] <= 2 * result["torch_bf16_rms"]


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[str, dict]:
    wavelets = FULL_MATRIX if request.config.getoption("--full-matrix") else COVERING
    # The drafts come last: they load numba, whose objects vLLM 0.32 stumbles over when it makes another engine.
    cases = [*wavelets, *NEAR_BIASED, *OTHER_POSITIONS, *BFLOAT16, ADAPTED, INT8, DRAFTED]
    # Half of them on each of two cores: an engine's start, most of a case's time, uses one.
    halves = [cases[1::2], cases[::2]] if (os.cpu_count() or 1) > 1 else [cases]
    folders = [tmp_path_factory.mktemp("parity") for _ in halves]
    with ThreadPoolExecutor() as pool:
        done = pool.map(lambda half, folder, core: run_parity(half, folder, cores=core), halves, folders, ("0", "1"))
        return {name: result for results in done for name, result in results.items()}


def test_wavelet_log_probabilities_match_the_dense_reference(single: dict[str, dict]) -> None:
    results = [single[name] for name in single if name.endswith("float32")]
    assert len(results) >= len(COVERING)
    for result in results:
        assert_float32_parity(result)


@pytest.mark.parametrize("case", OTHER_POSITIONS, ids=lambda case: case["name"])
def test_other_position_types_match_the_dense_reference(single: dict[str, dict], case: dict) -> None:
    assert_float32_parity(single[case["name"]])


@pytest.mark.parametrize("case", NEAR_BIASED, ids=lambda case: case["name"])
def test_the_bonus_of_near_keys_is_that_of_the_dense_reference(single: dict[str, dict], case: dict) -> None:
    assert_float32_parity(single[case["name"]])


def test_bfloat16_loses_at_most_twice_what_pytorchs_dense_attention_loses(single: dict[str, dict]) -> None:
    assert_bfloat16_parity(single[BFLOAT16[0]["name"]])


def test_drafted_tokens_are_verified_as_the_dense_reference_would(single: dict[str, dict]) -> None:
    """Verification asks for the last tokens of a sequence at once: several queries at its end."""
    result = single[DRAFTED["name"]]
    assert_float32_parity(result)
    assert result["accepted_drafts"] > 0


def test_an_adapter_matches_the_dense_model_that_it_is_merged_into(single: dict[str, dict]) -> None:
    result = single[ADAPTED["name"]]
    assert_float32_parity(result)
    assert result["change_rms"] > 0.5, "an adapter that is left out would not show"


def test_int8_weights_are_served_as_what_they_stand_for(single: dict[str, dict]) -> None:
    """Against the same whole numbers in float32.

    An activation that differs in its last digit may be rounded to the next whole number, and so may what follows from
    it: of the size of quantisation's own error, but smaller.
    """
    result = single[INT8["name"]]
    assert result["position_effect"] > 100 * FLOAT32_BOUND
    assert 0 < result["prefill_rms"] <= result["change_rms"] / 2
    assert 0 < result["change_rms"] < 0.1 * result["position_effect"]


needs_two_cores = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="each rank is bound to a core")


@needs_two_cores
def test_two_tensor_parallel_ranks_match_the_dense_reference(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    full = request.config.getoption("--full-matrix")
    cases = [*TENSOR_PARALLEL, *(MORE_TENSOR_PARALLEL if full else [])]
    assert_parity(run_parity(cases, tmp_path, tensor_parallel=2, cores=CORE_EACH))


@needs_two_cores
def test_two_stages_of_a_pipeline_match_the_dense_reference(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    cases = PIPELINE if request.config.getoption("--full-matrix") else PIPELINE[:1]
    assert_parity(run_parity(cases, tmp_path, cores=CORE_EACH))


def assert_parity(results: dict[str, dict]) -> None:
    for result in results.values():
        if result["case"]["dtype"] == "float32":
            assert_float32_parity(result)
        else:
            assert_bfloat16_parity(result)
