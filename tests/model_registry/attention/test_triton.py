"""The Triton implementation where there is no GPU: its kernels interpreted, compiled for one, and what it refuses."""

from pathlib import Path

import pytest
import torch
from helpers.paged_case import paged_case
from helpers.python import run

from model_registry.attention import AttentionArgumentError, wavelet_attention


@pytest.mark.parametrize("name", ["triton_interpreted.py", "split_interpreted.py"])
def test_the_interpreted_kernels_are_the_equation(name):
    """In a process of its own: Triton reads the variable on import, and other tests import it without."""
    script = Path(__file__).with_name(name)
    report = run("-m", "pytest", "-q", "-p", "no:cacheprovider", str(script), TRITON_INTERPRET="1")
    assert " passed" in report
    assert "skipped" not in report


def test_the_kernels_compile_for_hopper_without_spills_and_with_products_in_flight(tmp_path):
    command = ["-m", "benchmarks.attention.compile_report", "--head-sizes", "128", "--elements", "bf16"]
    report = run(*command, TRITON_CACHE_DIR=tmp_path)
    assert ", 0 spill, 0 serialise" in report


def test_cpu_tensors_are_refused_outside_the_interpreter():
    case = paged_case([20], [3], dtype=torch.float32)
    with pytest.raises(AttentionArgumentError, match="TRITON_INTERPRET=1") as raised:
        wavelet_attention(*case.arguments(), impl="triton")
    assert raised.value.argument == "impl"


@pytest.mark.parametrize(
    ("d", "dtype", "value"), [(32, torch.float64, torch.float64), (320, torch.float32, 320), (8, torch.float32, 8)]
)
def test_types_and_head_sizes_that_it_cannot_do_are_refused(d, dtype, value):
    case = paged_case([20], [3], d=d, dtype=dtype)
    with pytest.raises(AttentionArgumentError) as raised:
        wavelet_attention(*case.arguments(), impl="triton")
    assert (raised.value.argument, raised.value.value) == ("q", value)
