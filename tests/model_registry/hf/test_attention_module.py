"""The attention module of each position type against its formula, written one score at a time in float64."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.small_models import build, each_position, tokens

from model_registry.positions.wavelet import position_table

LENGTH, TRAIN_LENGTH = 23, 16


def rotated(x: torch.Tensor, position: int) -> torch.Tensor:
    """Rotary embedding with theta 1e4: dimension ``i`` turns with dimension ``i + d / 2``."""
    half = len(x) // 2
    angle = position * 1e4 ** (-torch.arange(half, dtype=torch.float64) / half)
    a, b = x[:half], x[half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()])


def score(q: torch.Tensor, k: torch.Tensor, m: int, n: int, head: int, kind: str, table: torch.Tensor) -> torch.Tensor:
    if kind == "rope":
        return rotated(q, m) @ rotated(k, n) / math.sqrt(len(q))
    if kind == "alibi":
        slope = [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8, 2.0**-1, 2.0**-3][head]
        return q @ k / math.sqrt(len(q)) - slope * (m - n)
    if kind == "wavelet" and m - n < len(table):
        return (q @ k + q @ table[m - n]) / math.sqrt(len(q))
    return q @ k / math.sqrt(len(q))


@each_position
@pytest.mark.parametrize("logit_scaling", ["none", "log_n"])
def test_every_score_follows_the_formula(position, logit_scaling):
    model = build(position_encoding=position, logit_scaling=logit_scaling, attention_bias=True).double()
    layer = model.model.layers[1].self_attn
    seen = {}

    def keep(_, arguments, options, result):
        seen["hidden"] = options["hidden_states"][0]
        seen["weights"] = result[1][0]

    layer.register_forward_hook(keep, with_kwargs=True)
    with torch.no_grad():
        model(input_ids=tokens(1, LENGTH))
        q = layer.q_proj(seen["hidden"]).view(LENGTH, 6, 32)
        k = layer.k_proj(seen["hidden"]).view(LENGTH, 2, 32)
    table = torch.empty(0, 32)
    if position["type"] == "wavelet":
        table = position_table(position["wavelet"], position["scale_exponents"], position["shifts"]).double()
    for m in range(LENGTH):
        factor = max(1.0, math.log(m + 1) / math.log(TRAIN_LENGTH)) if logit_scaling == "log_n" else 1.0
        for head in range(6):
            query = q[m, head] * factor
            scores = torch.stack(
                [score(query, k[n, head // 3], m, n, head, position["type"], table) for n in range(m + 1)]
            )
            # log_n's factor and rope's angles are float32.
            torch.testing.assert_close(seen["weights"][head, m, : m + 1], scores.softmax(0), rtol=2e-5, atol=1e-7)
            assert not seen["weights"][head, m, m + 1 :].any()
