"""FlexAttention is the dense formula: values everywhere, and gradients."""

from __future__ import annotations

import pytest
import torch
from helpers.small_models import WAVELET, build, each_position, tokens
from torch.nn.attention import flex_attention
from torch.nn.attention.flex_attention import create_block_mask

from model_registry.dense_attention import dense_attention, rows_by_key
from model_registry.flex_attention import NearBonus, attend
from model_registry.positions.wavelet import position_table

LENGTH = 201
# Llama's norms round to float32 (6e-8 of values below 16) even in a float64 model, three times in a row.
TOLERANCE = 5e-6


def both(position, **changes):
    """The same weights with dense attention and with FlexAttention, in float64."""
    dense = build(position_encoding=position, **changes).double()
    flex = build(position_encoding=position, **changes).double()
    flex.set_attn_implementation("flex_attention")
    return dense, flex


@each_position
@pytest.mark.parametrize("logit_scaling", ["none", "log_n"])
@torch.no_grad()
def test_logits_equal_those_of_dense_attention_at_a_ragged_length(position, logit_scaling):
    dense, flex = both(position, logit_scaling=logit_scaling)
    expected = dense(tokens(2, LENGTH)).logits
    assert expected.std() > 0.1
    assert (flex(tokens(2, LENGTH)).logits - expected).abs().max() < TOLERANCE


NEAR_BIAS = {"near_bias_slope": 0.7, "near_bias_keys": 30}


@torch.no_grad()
def test_near_keys_get_the_same_bonus_with_padding_too():
    dense, flex = both(WAVELET, logit_scaling="log_n", **NEAR_BIAS)
    plain, _ = both(WAVELET, logit_scaling="log_n")
    mask = torch.ones(2, LENGTH, dtype=torch.long)
    mask[0, :37] = 0
    expected, found, without = (model(tokens(2, LENGTH), attention_mask=mask).logits for model in (dense, flex, plain))
    assert (found - expected)[mask.bool()].abs().max() < TOLERANCE
    assert (without - expected)[mask.bool()].abs().max() > 0.1


@each_position
@torch.no_grad()
def test_padding_on_the_left_changes_nothing(position):
    dense, flex = both(position, logit_scaling="log_n")
    mask = torch.ones(2, LENGTH, dtype=torch.long)
    mask[0, :37] = 0
    expected, found = (model(tokens(2, LENGTH), attention_mask=mask).logits for model in (dense, flex))
    assert (found - expected)[mask.bool()].abs().max() < TOLERANCE


def test_it_reads_no_cache():
    _, flex = both({"type": "nope"})
    with torch.no_grad():
        cache = flex(tokens(1, 9), use_cache=True).past_key_values
        with pytest.raises(ValueError, match="is for training and reads no cache"):
            flex(tokens(1, 4), past_key_values=cache)


def test_dropout_is_refused():
    _, flex = both({"type": "nope"}, attention_dropout=0.1)
    with pytest.raises(ValueError, match=r"attention_dropout=0\.1: FlexAttention has none"):
        flex.train()(tokens(1, 9))


@pytest.mark.parametrize("near_keys", [None, 20])
def test_gradients_equal_those_of_the_dense_formula(monkeypatch, near_keys):
    """PyTorch refuses gradients on a CPU, since its compiled CPU kernel has none; what it runs uncompiled has them."""
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *_: None)
    table = position_table("ricker", [0, 1, 2, 3], [0, 1, 2, 3]).double()
    length = 77
    generator = torch.Generator().manual_seed(0)
    parts = [
        torch.randn(2, heads, length, 16, generator=generator, dtype=torch.float64, requires_grad=True)
        for heads in (4, 2, 2)
    ]
    at = torch.arange(length)
    visible = (at[:, None] >= at)[None, None]
    rows = rows_by_key(table, length, length, 0)
    mask = create_block_mask(lambda b, h, m, n: m >= n, None, None, length, length, device="cpu")
    bias = bonus = None
    if near_keys is not None:
        of_query = at[None].double() / 20
        bias = torch.where(at[:, None] - at < near_keys, of_query[..., None], 0.0)
        bonus = NearBonus(of_query, near_keys)
    expected, _ = dense_attention(*parts, visible, 0.25, rows=rows, bias=bias)
    found = attend(*parts, mask, 0.25, table=table, bonus=bonus)
    weight = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    assert (found - expected).abs().max() < 1e-12
    for one, two in zip(*(torch.autograd.grad(out, parts, weight) for out in (found, expected)), strict=True):
        assert two.abs().max() > 0.1
        assert (one - two).abs().max() < 1e-12


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the compiled kernel needs a GPU")
@pytest.mark.parametrize("length", [77, 333])
def test_gradients_of_the_compiled_kernel_equal_those_of_dense_attention(length):
    from benchmarks.attention.training import check

    found = check(length, torch.float32, "wavelet")
    assert all(error < 2 * found["dense"][name] + 1e-5 for name, error in found["flex"].items()), found


@torch.no_grad()
def test_distances_past_the_table_have_no_position_term():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 150, 16, generator=generator, dtype=torch.float64) for _ in range(3))
    mask = create_block_mask(lambda b, h, m, n: m >= n, None, None, 150, 150, device="cpu")
    table = torch.randn(40, 16, generator=generator, dtype=torch.float64)
    padded = torch.cat([table, torch.zeros(110, 16, dtype=torch.float64)])
    short, long = (attend(q, k, v, mask, 0.25, table=each) for each in (table, padded))
    assert (short - long).abs().max() < 1e-12
    assert (short - attend(q, k, v, mask, 0.25)).abs().max() > 0.01
