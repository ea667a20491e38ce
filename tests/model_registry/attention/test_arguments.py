"""Wrong arguments are refused by name, with the value that was given."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from helpers.paged_case import paged_case

from model_registry.attention import AttentionArgumentError, NearBias, wavelet_attention

NAMES = ("q", "k_cache", "v_cache", "block_table", "query_start_loc", "seq_lens", "table", "scale", "near_bias")


def int32(*values):
    return torch.tensor(values, dtype=torch.int32)


LAYOUT = [
    ("q", None, "must be a tensor, got NoneType"),
    ("q", torch.zeros(8, 4 * 32), r"must have 3 dimensions, got \(8, 128\)"),
    ("q", torch.zeros(8, 4, 32, dtype=torch.int8), "must be one of torch.float32, .* got torch.int8"),
    ("q", torch.zeros(8, 4, 32, requires_grad=True), "has no gradient"),
    ("q", torch.zeros(8, 0, 32), "needs at least one head"),
    (
        "k_cache",
        torch.zeros(9, 16, 2, 32, dtype=torch.float16),
        "must have the type of q, torch.float32, got torch.float16",
    ),
    ("k_cache", torch.zeros(9, 16, 3, 32), "its heads must divide the 4 heads of q, got 3"),
    ("k_cache", torch.zeros(9, 0, 2, 32), "at least one slot"),
    ("k_cache", torch.zeros(9, 16, 2, 31), r"must have shape \(9, 16, 2, 32\), got \(9, 16, 2, 31\)"),
    ("k_cache", torch.zeros(9, 16, 2, 32, device="meta"), "must be on the device of q, cpu, got meta"),
    ("v_cache", torch.zeros(9, 16, 4, 32), "must have shape"),
    ("v_cache", torch.zeros(9, 16, 2, 32, dtype=torch.float64), "must have the type of q"),
    ("block_table", torch.zeros(2, 4, dtype=torch.int64), "must be int32, got torch.int64"),
    ("block_table", torch.zeros(3, 4, dtype=torch.int32), r"must have shape \(2, 4\), got \(3, 4\)"),
    ("query_start_loc", int32(0, 8), r"must have shape \(3,\), got \(2,\)"),
    ("seq_lens", torch.tensor([20.0, 40.0]), "must be int32, got torch.float32"),
    ("table", torch.zeros(5, 16), r"must have shape \(5, 32\), got \(5, 16\)"),
    ("table", torch.zeros(0, 32), "needs at least one row"),
    ("table", torch.zeros(5, 32, dtype=torch.bfloat16), "must be float32, got torch.bfloat16"),
    ("table", torch.zeros(5, 32, dtype=torch.float64), "must be float32, got torch.float64"),
    ("scale", float("nan"), "must be a finite number, got nan"),
    ("scale", "0.1", "must be a finite number, got '0.1'"),
    ("scale", True, "must be a finite number"),
    ("near_bias", NearBias(-0.1, 10, 5), r"its slope must be .* got NearBias\(slope=-0.1"),
    ("near_bias", NearBias(float("nan"), 10, 5), "its slope must be"),
    ("near_bias", NearBias(0.5, 0, 5), "its length must be a whole number of at least 1"),
    ("near_bias", NearBias(0.5, 10, 5.0), "its keys must be a whole number of at least 1"),
    ("near_bias", NearBias(0.5, 10, 101), "its keys must be at most the 100 rows of the table"),
    ("out", torch.zeros(8, 4, 16), r"must have shape \(8, 4, 32\)"),
    ("out", torch.zeros(8, 4, 32, dtype=torch.bfloat16), "must have the type of q"),
    ("impl", "cuda", "must be auto or one of reference, cpu, torch, triton, got 'cuda'"),
]

VALUES = [
    ("query_start_loc", int32(1, 3, 8), "must start at 0, got 1"),
    ("query_start_loc", int32(0, 3, 9), "must not end past the 8 rows of q, got 9"),
    ("query_start_loc", int32(0, 9, 8), "must not fall after sequence 1, got 8"),
    ("seq_lens", int32(-1, 40), "sequence 0 has 3 queries and cannot have fewer keys, got -1"),
    ("seq_lens", int32(20, 4), "sequence 1 has 5 queries and cannot have fewer keys, got 4"),
    ("seq_lens", int32(20, 65), "sequence 1 has blocks for 64 keys only, got 65"),
    ("block_table", torch.full((2, 4), 7, dtype=torch.int32), r"sequence 0 needs blocks of 0..6, got 7"),
    ("block_table", torch.tensor([[0, 1, 9, 9], [3, 4, -1, 9]], dtype=torch.int32), r"sequence 1 needs .* got -1"),
]


@pytest.mark.parametrize(("name", "value", "message"), LAYOUT + VALUES)
@pytest.mark.parametrize("impl", ["reference", "cpu", "torch"])
def test_a_wrong_argument_is_named(name, value, message, impl):
    case = paged_case([20, 40], [3, 5], dtype=torch.float32)
    arguments = dict(zip(NAMES, case.arguments(), strict=True)) | {"impl": impl, name: value}
    with pytest.raises(AttentionArgumentError, match=message) as raised:
        wavelet_attention(**arguments)
    assert raised.value.argument == name
    assert str(raised.value).startswith(f"{name}: ")


def test_a_bonus_without_a_scale_is_refused():
    case = paged_case([20, 40], [3, 5], near_bias=NearBias(0.5, 10, 5))
    with pytest.raises(AttentionArgumentError, match="near_bias: has to be None where the scale is 0"):
        wavelet_attention(*replace(case, scale=0.0).arguments())


def test_unused_entries_of_the_block_table_may_be_anything():
    case = paged_case([20, 40], [3, 5])
    assert (case.block_table == -7).any()
    wavelet_attention(*case.arguments())


def test_a_device_without_an_implementation_is_refused_not_computed_elsewhere():
    case = paged_case([20], [3], dtype=torch.float32)
    tensors = [x.to("meta") for x in case.arguments()[:-2]]
    with pytest.raises(AttentionArgumentError, match="no implementation is the default on meta"):
        wavelet_attention(*tensors, case.scale)
    with pytest.raises(AttentionArgumentError, match="runs on cpu, not on meta"):
        wavelet_attention(*tensors, case.scale, impl="cpu")


def test_the_layout_checks_read_no_data():
    """A meta tensor has no data: reading a value of one raises."""
    from model_registry.attention.arguments import check_layout
    from model_registry.attention.batch import PagedBatch

    case = paged_case([20], [3], dtype=torch.float32)
    check_layout(PagedBatch(*(x.to("meta") for x in case.arguments()[:-2]), case.scale), None)


def test_importing_the_op_imports_neither_vllm_nor_transformers():
    program = (
        "import sys, model_registry.attention as a\n"
        "a.wavelet_attention\n"
        "print(sorted({'vllm', 'transformers', 'wave_serve', 'triton'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
