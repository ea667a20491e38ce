"""FlexAttention is the dense formula: values everywhere, gradients where PyTorch has them (CUDA)."""

from __future__ import annotations

import pytest
import torch
from helpers.small_models import build, each_position, tokens
from torch.nn.attention.flex_attention import create_block_mask

from model_registry.flex_attention import attend

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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch has no backward pass of FlexAttention on a CPU")
@pytest.mark.parametrize("length", [77, 333])
def test_gradients_equal_those_of_dense_attention(length):
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
