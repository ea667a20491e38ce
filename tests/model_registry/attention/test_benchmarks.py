"""The GPU benchmarks run end to end where there is no GPU: under Triton's interpreter, on tiny shapes."""

import json
import os
import subprocess
import sys

import pytest
from helpers.python import ROOT, run

from benchmarks.serving import gpu_rates
from model_registry.configuration_wavelet import WaveletLlamaConfig


def test_the_benchmark_checks_parity_before_it_times(tmp_path):
    """One of its peers, without positions, is passed off as one with them."""
    output = tmp_path / "results.json"
    program = (
        f"import sys; sys.argv += ['--smoke', '--output', {str(output)!r}]\n"
        "from benchmarks.attention import gpu, peers\n"
        "peers.PEERS['wrong'] = (peers.term_off, True)\n"
        "gpu.main()"
    )
    report = run("-W", "ignore", "-c", program, TRITON_INTERPRET="1")
    assert report.count("FAILS PARITY, not timed") == 2
    result = json.loads(output.read_text())
    assert result["interpreted"]
    assert [case["shape"]["queries"] for case in result["cases"]] == [1, 40]
    for case in result["cases"]:
        assert case["peers"].pop("wrong")["parity"] is False
        assert {"wavelet", "term off", "flex", "sdpa flash"} <= {
            name for name, peer in case["peers"].items() if peer.get("parity") and peer["ms"] > 0
        }
        assert all(peer.get("unavailable") or "error" in peer for peer in case["peers"].values())
    plot = tmp_path / "plot.svg"
    run("-m", "benchmarks.attention.plot_gpu", str(output), str(plot))
    assert plot.stat().st_size > 0


def test_random_shapes_are_in_bounds():
    command = ["-W", "ignore", "-m", "benchmarks.attention.parity", "--shapes", "2", "--longest", "90"]
    report = run(*command, TRITON_INTERPRET="1")
    assert report.count("2 of 2 in bounds") == 5


def test_shapes_are_shared_out_to_processes():
    command = ["-m", "benchmarks.attention.parity", "--shapes", "1", "--longest", "40", "--workers", "2"]
    assert run("-W", "ignore", *command, TRITON_INTERPRET="1").count("1 of 1 in bounds") == 5


def test_the_script_for_gpus_says_what_it_lacks(tmp_path):
    finished = subprocess.run(
        ["bash", "benchmarks/run_gpu.sh", sys.executable],
        cwd=ROOT,
        env=os.environ | {"RESULTS": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 2
    assert "torch sees no GPU" in finished.stderr
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("encoding", ["wavelet", "rope"])
def test_the_models_whose_serving_is_timed_are_valid(encoding, tmp_path):
    """They are the bundled model's config in another shape, and whatever that has must go with it."""
    config = WaveletLlamaConfig.from_pretrained(gpu_rates.checkpoint(tmp_path, encoding, gpu_rates.LAYER, 32192))
    assert config.position_encoding["type"] == encoding
    assert config.num_hidden_layers == gpu_rates.LAYER["num_hidden_layers"]


def test_the_smoke_run_refuses_to_start_without_the_interpreter():
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.attention.gpu", "--smoke"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 2
    assert "TRITON_INTERPRET=1" in finished.stderr
