"""Dense attention against golden vectors and against the formula written as loops, in float64."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from model_registry.dense_attention import dense_attention, rows_by_key, skewed_scores
from model_registry.positions.alibi import alibi_slopes
from model_registry.positions.logit_scaling import log_n_factor
from model_registry.positions.wavelet import position_table

GOLDEN = json.loads((Path(__file__).parents[2] / "data/golden/attention.json").read_text())


def causal(queries: int, keys: int) -> torch.Tensor:
    return (torch.arange(keys) <= torch.arange(keys - queries, keys)[:, None])[None, None]


def attend_golden(case: dict, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    q, k, v, expected = (
        torch.tensor(case[name], dtype=torch.float64).transpose(0, 1)[None] for name in ("q", "k", "v", "out")
    )
    queries, keys = q.shape[2], k.shape[2]
    if case["logit_scaling"] == "log_n":
        q = q * log_n_factor(torch.arange(keys - queries, keys) + 1, case["train_length"])[:, None]
    table = position_table(case["wavelet"], case["scale_exponents"], case["shifts"]).to(dtype)
    q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    rows = rows_by_key(table, queries, keys, keys - queries)
    return dense_attention(q, k, v, causal(queries, keys), q.shape[3] ** -0.5, rows=rows)[0], expected


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{case['wavelet']}-{len(case['k'])}-{case['logit_scaling']}")
# Float64 inputs meet a table and a factor that are float32: their rounding is all that remains.
@pytest.mark.parametrize(("dtype", "eps"), [(torch.float64, 2**-24), (torch.float32, 2**-24)], ids=["fp64", "fp32"])
def test_golden_vectors_come_out(case, dtype, eps):
    out, expected = attend_golden(case, dtype)
    assert (out - expected).abs().max() <= 16 * eps * expected.abs().max()


def test_bfloat16_is_as_close_to_float64_as_its_rounding_admits():
    case = GOLDEN[0]
    out, expected = attend_golden(case, torch.bfloat16)
    assert out.dtype == torch.bfloat16
    assert (out - expected).abs().max() <= 8 * 2**-8 * expected.abs().max()


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 13), (5, 5), (4, 11), (13, 13)])
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_skewed_scores_are_q_dot_p_of_the_distance(queries, keys, rows):
    torch.manual_seed(queries * 100 + keys + rows)
    table = torch.randn(rows, 8, dtype=torch.float64)
    q = torch.randn(2, 3, queries, 8, dtype=torch.float64)
    scores = skewed_scores(q, rows_by_key(table, queries, keys, keys - queries))
    assert scores.shape == (2, 3, queries, keys)
    for i in range(queries):
        for j in range(keys - queries + i + 1):
            t = keys - queries + i - j
            expected = q[:, :, i] @ table[t] if t < rows else torch.zeros(2, 3, dtype=torch.float64)
            torch.testing.assert_close(scores[:, :, i, j], expected, rtol=1e-12, atol=1e-12)


def test_gradients_flow_through_the_skewed_read():
    q, k, v = (torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    rows = rows_by_key(torch.randn(3, 4, dtype=torch.float64), 5, 5, 0)
    assert torch.autograd.gradcheck(
        lambda q, k, v: dense_attention(q, k, v, causal(5, 5), 0.5, rows=rows)[0], (q, k, v)
    )


def test_log_n_is_one_up_to_the_training_length_and_a_ratio_of_logarithms_after():
    factor = log_n_factor(torch.tensor([0, 1, 2, 511, 512, 513, 32768]), 512)
    assert factor[:5].tolist() == [1.0] * 5
    assert factor[5] > 1
    assert factor[6].item() == pytest.approx(math.log(32768) / math.log(512), rel=1e-6)


def test_alibi_slopes_halve_for_powers_of_two_and_interleave_otherwise():
    assert alibi_slopes(8) == [2.0**-n for n in range(1, 9)]
    assert alibi_slopes(1) == [2.0**-8]
    # Four heads' slopes, then the first and third of eight heads'.
    assert alibi_slopes(6) == [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8, 2.0**-1, 2.0**-3]
    with pytest.raises(ValueError, match="num_heads=0"):
        alibi_slopes(0)
