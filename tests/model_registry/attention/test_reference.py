"""The reference against two independent statements of the equation: golden vectors, and a loop over positions."""

import json
import math
from pathlib import Path

import pytest
import torch
from helpers.paged_case import paged_case

from model_registry.attention import NearBias, wavelet_attention
from model_registry.positions.wavelet import position_table

GOLDEN = json.loads((Path(__file__).parents[2] / "data" / "golden" / "attention.json").read_text())
GOLDEN_TOLERANCE = 2e-6  # the vectors are rounded to six decimals, and the table to float32


def equation(case, s, j, h):
    """The output of query ``j`` of sequence ``s`` in head ``h``, key by key."""
    q, k, v = case.sequence(s)
    H, H_kv = q.shape[1], k.shape[1]
    m = k.shape[0] - q.shape[0] + j
    scores = []
    for n in range(m + 1):
        key = k[n, h // (H // H_kv)]
        if m - n < case.table.shape[0]:
            key = key + case.table[m - n]
        score = torch.dot(q[j, h], key) * case.scale
        if case.near_bias is not None and m - n < case.near_bias.keys and m + 1 > case.near_bias.length:
            score = score + case.near_bias.slope * math.log((m + 1) / case.near_bias.length)
        scores.append(score)
    weights = torch.softmax(torch.stack(scores), dim=0)
    return weights @ v[: m + 1, h // (H // H_kv)]


@pytest.mark.parametrize("impl", ["reference", "cpu", "torch"])
@pytest.mark.parametrize("vector", GOLDEN, ids=lambda vector: vector["logit_scaling"])
def test_golden_vectors_come_out(vector, impl):
    q, k, v, expected = (torch.tensor(vector[name], dtype=torch.float64) for name in ("q", "k", "v", "out"))
    (n_q, _, d), L, block_size = q.shape, k.shape[0], 16
    if vector["logit_scaling"] == "log_n":
        seen = torch.arange(L - n_q + 1, L + 1, dtype=torch.float64)
        q = q * (seen.log() / math.log(vector["train_length"])).clamp(min=1)[:, None, None]
    blocks = -(-L // block_size)
    k_cache, v_cache = (
        torch.nn.functional.pad(x, (0, 0, 0, 0, 0, blocks * block_size - L)).unflatten(0, (blocks, block_size))
        for x in (k, v)
    )
    table = position_table(vector["wavelet"], vector["scale_exponents"], vector["shifts"])
    out = wavelet_attention(
        q,
        k_cache,
        v_cache,
        torch.arange(blocks, dtype=torch.int32)[None],
        torch.tensor([0, n_q], dtype=torch.int32),
        torch.tensor([L], dtype=torch.int32),
        table,
        d**-0.5,
        impl=impl,
    )
    assert (out - expected).abs().max() < GOLDEN_TOLERANCE


@pytest.mark.parametrize("near_bias", [None, NearBias(0.8, 36, 1), NearBias(1.7, 1, 5), NearBias(1, 88, 5)])
@pytest.mark.parametrize("R", [5, 40, 300])
@pytest.mark.parametrize("H_kv", [1, 3, 6])
def test_the_reference_is_the_equation(R, H_kv, near_bias):
    case = paged_case([37, 1, 90], [5, 1, 3], H=6, H_kv=H_kv, d=10, R=R, near_bias=near_bias)
    out = wavelet_attention(*case.arguments(), impl="reference")
    row = 0
    for s, n_q in enumerate([5, 1, 3]):
        for j in range(n_q):
            for h in range(6):
                assert (out[row, h] - equation(case, s, j, h)).abs().max() < 1e-13
            row += 1


def test_the_reference_computes_low_precision_inputs_in_float32():
    case = paged_case([200], [70], dtype=torch.bfloat16)
    out = wavelet_attention(*case.arguments(), impl="reference")
    exact = wavelet_attention(*case.to(torch.float64).arguments(), impl="reference")
    rounding = torch.finfo(torch.bfloat16).eps / 2 * exact.abs()
    assert ((out.double() - exact).abs() <= rounding + 1e-5).all()
