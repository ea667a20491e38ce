"""The Hugging Face model: cache, padding, saving, and what each position encoding must and must not depend on."""

from __future__ import annotations

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from accelerate.utils import send_to_device
from helpers.small_models import POSITIONS, WAVELET, build, each_position, tokens
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForCausalLM, StaticCache

from model_registry.modeling_wavelet import WaveletLlamaForCausalLM

# Two float32 evaluations of the same logits in another order of operations; |logits| is below 64 here.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-3}


@torch.no_grad()
def logits(model: WaveletLlamaForCausalLM, ids: torch.Tensor, **arguments) -> torch.Tensor:
    return model(input_ids=ids, **arguments).logits


NEAR_BIAS = {"near_bias_slope": 0.8, "near_bias_keys": 9}
each_model = pytest.mark.parametrize(
    "entries",
    [*({"position_encoding": position} for position in POSITIONS.values()), NEAR_BIAS],
    ids=[*POSITIONS, "bonus for near keys"],
)


@each_model
@pytest.mark.parametrize("logit_scaling", ["none", "log_n"])
def test_logits_with_a_cache_equal_logits_without(entries, logit_scaling):
    model, ids = build(logit_scaling=logit_scaling, **entries), tokens(2, 37)
    whole = logits(model, ids, use_cache=False)
    assert whole.abs().max() < 64
    cache, parts, start = None, [], 0
    with torch.no_grad():
        for length in (19, 1, 1, 7, 9):
            out = model(input_ids=ids[:, start : start + length], past_key_values=cache, use_cache=True)
            cache, start = out.past_key_values, start + length
            parts.append(out.logits)
    assert start == 37
    assert_close(torch.cat(parts, dim=1), whole, **TOLERANCE)


@each_model
@pytest.mark.parametrize("logit_scaling", ["none", "log_n"])
def test_left_padding_changes_nothing(entries, logit_scaling):
    model = build(logit_scaling=logit_scaling, **entries)
    long, short = tokens(1, 31), tokens(1, 20)
    padded = torch.cat([torch.ones(1, 11, dtype=torch.long), short], dim=1)
    mask = torch.ones(2, 31, dtype=torch.long)
    mask[1, :11] = 0
    both = logits(model, torch.cat([long, padded]), attention_mask=mask)
    assert_close(both[:1], logits(model, long), **TOLERANCE)
    assert_close(both[1:, 11:], logits(model, short), **TOLERANCE)


@each_model
def test_a_padded_batch_generates_what_each_prompt_generates_alone(entries):
    model = build(logit_scaling="log_n", **entries)
    long, short = tokens(1, 23), tokens(1, 14)
    padded = torch.cat([torch.ones(1, 9, dtype=torch.long), short], dim=1)
    mask = torch.ones(2, 23, dtype=torch.long)
    mask[1, :9] = 0
    settings = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "pad_token_id": 1}
    both = model.generate(torch.cat([long, padded]), attention_mask=mask, **settings)[:, 23:]
    alone = [
        model.generate(ids, attention_mask=torch.ones_like(ids), **settings)[0, ids.shape[1] :] for ids in (long, short)
    ]
    assert both.tolist() == [ids.tolist() for ids in alone]


@each_position
def test_generation_with_a_cache_follows_the_argmax_of_full_passes(position):
    model, ids = build(position_encoding=position, logit_scaling="log_n"), tokens(1, 9)
    generated = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=17, min_new_tokens=17, do_sample=False, pad_token_id=1
    )
    everything = logits(model, generated, use_cache=False)[0]
    everything[:, model.generation_config.eos_token_id] = -torch.inf
    assert everything[8:-1].argmax(dim=-1).tolist() == generated[0, 9:].tolist()


def test_a_static_cache_gives_the_logits_of_a_growing_one():
    model, ids = build(logit_scaling="log_n", **NEAR_BIAS), tokens(1, 29)
    cache = StaticCache(config=model.config, max_cache_len=48)
    first = logits(model, ids[:, :21], past_key_values=cache)
    second = logits(model, ids[:, 21:], past_key_values=cache)
    assert_close(torch.cat([first, second], dim=1), logits(model, ids), **TOLERANCE)


@pytest.mark.parametrize(
    "changes", [{"tie_word_embeddings": True}, {"attention_bias": True}, {"num_key_value_heads": 6}]
)
@each_position
def test_a_saved_model_loads_with_the_same_logits(tmp_path, position, changes):
    model, ids = build(position_encoding=position, **changes), tokens(2, 25)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(loaded, WaveletLlamaForCausalLM)
    tied = loaded.lm_head.weight.data_ptr() == loaded.model.embed_tokens.weight.data_ptr()
    assert tied == changes.get("tie_word_embeddings", False)
    assert torch.equal(logits(loaded, ids), logits(model, ids))


def test_the_model_without_its_head_loads_too(tmp_path):
    model, ids = build(), tokens(2, 25)
    model.save_pretrained(tmp_path)
    bare = AutoModel.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(model.lm_head(bare(input_ids=ids).last_hidden_state), model(input_ids=ids).logits)


def test_weight_names_are_llamas():
    names = build(attention_bias=True).state_dict().keys()
    for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
        assert f"model.layers.1.self_attn.{part}.weight" in names
        assert f"model.layers.1.self_attn.{part}.bias" in names
    assert "model.layers.0.mlp.gate_proj.weight" in names
    assert not [name for name in names if "table" in name or "rotary" in name]


@pytest.mark.parametrize("kind", ["ricker", "alibi", "nope"])
def test_nothing_is_rotated_unless_the_type_is_rope(kind):
    position = WAVELET if kind == "ricker" else {"type": kind}
    model, ids = build(position_encoding=position, logit_scaling="log_n"), tokens(1, 33)
    # With a mask, because without one Transformers takes jumps in position_ids for borders of packed documents.
    mask = torch.ones_like(ids)
    shifted = torch.arange(33)[None] * 3 + 1000
    assert torch.equal(logits(model, ids, position_ids=shifted, attention_mask=mask), logits(model, ids))
    cache = model(input_ids=ids[:, [5, 5, 5]], use_cache=True).past_key_values
    first_layer = cache.layers[0].keys[0]
    assert_close(first_layer[:, 0], first_layer[:, 2], rtol=0, atol=0)


def test_rope_rotates_with_llamas_scaled_frequencies():
    position, ids = {"type": "rope"}, tokens(1, 33)
    plain = build(position_encoding=position)
    linear = build(
        position_encoding=position, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
    )
    stretched = torch.arange(33)[None] * 4
    assert not torch.allclose(logits(linear, ids), logits(plain, ids), atol=1e-2)
    mask = torch.ones_like(ids)
    assert_close(logits(linear, ids, position_ids=stretched, attention_mask=mask), logits(plain, ids), **TOLERANCE)


@each_position
@pytest.mark.parametrize(("entries", "length"), [({}, 16), ({"logit_scaling_length": 7}, 7)])
def test_log_n_acts_past_its_length_and_only_there(position, entries, length):
    plain, ids = build(position_encoding=position), tokens(1, 40)
    scaled = build(position_encoding=position, logit_scaling="log_n", **entries)
    before, after = logits(plain, ids), logits(scaled, ids)
    assert_close(after[:, :length], before[:, :length], **TOLERANCE)
    assert ((after - before)[:, length:].abs().amax(dim=-1) > 1e-2).all()


def test_the_bonus_of_near_keys_acts_past_the_training_length_and_only_there():
    plain, ids = build(), tokens(1, 40)
    before, after = logits(plain, ids), logits(build(**NEAR_BIAS), ids)
    assert_close(after[:, :16], before[:, :16], **TOLERANCE)
    assert ((after - before)[:, 16:].abs().amax(dim=-1) > 1e-2).all()
    assert_close(logits(build(near_bias_slope=0.8, near_bias_keys=40), ids), before, **TOLERANCE)  # all keys alike


def test_log_n_from_a_shorter_length_acts_in_a_batch_no_longer_than_training():
    plain, ids = build().train(), tokens(2, 16)
    scaled = build(logit_scaling="log_n", logit_scaling_length=7).train()
    assert (logits(scaled, ids) - logits(plain, ids))[:, 7:].abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["ricker", "rope", "alibi"])
def test_the_order_of_earlier_tokens_matters_with_positions_and_not_without(kind):
    position = WAVELET if kind == "ricker" else {"type": kind}
    ids = tokens(1, 12)
    swapped = ids[:, [1, 0, *range(2, 12)]]
    one_layer = {"num_hidden_layers": 1}
    with_positions = build(position_encoding=position, **one_layer)
    without = build(position_encoding={"type": "nope"}, **one_layer)
    assert not torch.allclose(logits(with_positions, ids)[:, -1], logits(with_positions, swapped)[:, -1], atol=1e-3)
    assert_close(logits(without, ids)[:, -1], logits(without, swapped)[:, -1], **TOLERANCE)


@each_position
def test_loss_and_gradients_reach_every_weight(position):
    model, ids = build(position_encoding=position).train(), tokens(2, 21)
    model(input_ids=ids, labels=ids).loss.backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()] == []


@each_model
def test_layers_may_lie_on_several_devices(entries):
    """As `device_map="auto"` does on two GPUs; the second device here has no memory, but checks devices too."""
    model = build(logit_scaling="log_n", **entries)
    for module in (model.model.layers[1], model.model.norm, model.lm_head):
        add_hook_to_module(module.to("meta"), AlignDevicesHook(execution_device="meta"))
    assert logits(model, tokens(1, 40), use_cache=False).device.type == "meta"


def test_what_flex_attention_gets_moves_to_another_device_too():
    model = build(**NEAR_BIAS, logit_scaling="log_n")
    model.set_attn_implementation("flex_attention")
    given = []
    model.model.layers[0].register_forward_pre_hook(
        lambda _, __, options: given.append(options["geometry"]), with_kwargs=True
    )
    logits(model, tokens(1, 40), use_cache=False)
    moved = send_to_device(given[0], "meta")
    flex = moved.attention
    for tensor in (moved.factor, flex.mask.kv_indices, flex.table, flex.bonus.of_query):
        assert tensor.device.type == "meta"
    assert flex.bonus.keys == NEAR_BIAS["near_bias_keys"]


def test_ids_and_embeddings_together_or_neither_are_refused():
    model = build()
    with pytest.raises(ValueError, match="exactly one"):
        model()
