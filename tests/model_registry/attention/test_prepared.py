"""A step's layers that share their arguments get what each would get alone."""

from dataclasses import replace

import pytest
import torch
from helpers.paged_case import paged_case
from helpers.python import run

from model_registry.attention import AttentionArgumentError, NearBias, PreparedAttention, wavelet_attention


def layers():
    """Three layers' cases: one step's index tensors, table and layouts, and values of their own."""
    first = paged_case([300, 41, 7], [20, 1, 7], dtype=torch.bfloat16, block_size=32)
    others = [
        replace(first, **{name: scaled(getattr(first, name), factor) for name in ("q", "k_cache", "v_cache")})
        for factor in (-0.5, 1.5)
    ]
    return [first, *others]


def scaled(tensor, factor):
    """A multiple of ``tensor`` with its strides, which other ways of copying change."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype).copy_(tensor * factor)


def test_each_layer_gets_what_it_gets_alone():
    cases = layers()
    outputs = [torch.full_like(case.q, float("nan")) for case in cases]
    prepared = PreparedAttention(cases[0].batch(), outputs[0])
    for case, out in zip(cases, outputs, strict=True):
        tensors = (case.q, case.k_cache, case.v_cache)
        assert prepared.takes(*tensors, case.table, case.scale, None, out)
        prepared.attend(*tensors, out)
    for case, out in zip(cases, outputs, strict=True):
        assert torch.equal(out, wavelet_attention(*case.arguments()))


@pytest.mark.parametrize(
    "change",
    [
        lambda case: {"q": case.q[:5]},
        lambda case: {"q": case.q.float()},
        lambda case: {"k_cache": case.k_cache.contiguous()},
        lambda case: {"v_cache": case.v_cache[:2]},
        lambda case: {"table": case.table.clone()},
        lambda case: {"scale": 0.5},
        lambda case: {"near_bias": NearBias(0.5, 10, 20)},
    ],
)
def test_a_layer_that_differs_is_not_taken(change):
    case = paged_case([300, 41], [20, 1], dtype=torch.bfloat16)
    prepared = PreparedAttention(case.batch(), torch.empty_like(case.q))
    other = replace(case, **change(case))
    tensors = (other.q, other.k_cache, other.v_cache, other.table, other.scale, other.near_bias)
    assert not prepared.takes(*tensors, torch.empty_like(case.q))


def test_wrong_arguments_are_refused_as_ever():
    case = paged_case([30], [3], dtype=torch.bfloat16)
    with pytest.raises(AttentionArgumentError, match="table"):
        PreparedAttention(replace(case, table=case.table.half()).batch(), torch.empty_like(case.q))
    wrong = replace(case, seq_lens=torch.tensor([10_000], dtype=torch.int32))
    prepared = PreparedAttention(wrong.batch(), torch.empty_like(case.q))
    with pytest.raises(AttentionArgumentError, match="seq_lens"):
        prepared.attend(case.q, case.k_cache, case.v_cache, torch.empty_like(case.q))


def test_without_the_native_library_pytorch_attends(tmp_path):
    program = (
        "import sys; sys.path.insert(0, 'tests/model_registry/attention')\n"
        "import test_prepared as t\n"
        "from model_registry.attention import default_implementation\n"
        "t.test_each_layer_gets_what_it_gets_alone()\n"
        "t.test_wrong_arguments_are_refused_as_ever()\n"
        "print(default_implementation('cpu'))"
    )
    output = run("-c", program, PATH="", CXX="", XDG_CACHE_HOME=str(tmp_path))
    assert output.split()[-1] == "torch"
