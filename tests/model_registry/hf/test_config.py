"""The config refuses what no model can be built from, names the entry, and survives being written and read."""

from __future__ import annotations

import json

import pytest
from helpers.small_models import WAVELET, build, config_entries, each_position
from transformers import AutoConfig

from model_registry.configuration_wavelet import WaveletConfigError, WaveletLlamaConfig
from model_registry.modeling_wavelet import WaveletLlamaForCausalLM


def without(key: str) -> dict:
    return {name: value for name, value in WAVELET.items() if name != key}


BROKEN = {
    "no position encoding": ({"position_encoding": None}, "position_encoding", "None"),
    "position encoding of the wrong type": ({"position_encoding": "rope"}, "position_encoding", "'rope'"),
    "no type": ({"position_encoding": {}}, "position_encoding.type", "missing"),
    "unknown type": ({"position_encoding": {"type": "rotary"}}, "position_encoding.type", "'rotary'"),
    "unhashable type": ({"position_encoding": {"type": ["rope"]}}, "position_encoding.type", "['rope']"),
    "no wavelet": ({"position_encoding": without("wavelet")}, "position_encoding.wavelet", "missing"),
    "no shifts": ({"position_encoding": without("shifts")}, "position_encoding.shifts", "missing"),
    "unknown key": ({"position_encoding": WAVELET | {"theta": 3}}, "position_encoding.theta", "3"),
    "key of another type": (
        {"position_encoding": {"type": "rope", "wavelet": "haar"}},
        "position_encoding.wavelet",
        "'haar'",
    ),
    "unknown wavelet": (
        {"position_encoding": WAVELET | {"wavelet": "sombrero"}},
        "position_encoding.wavelet",
        "sombrero",
    ),
    "wavelet of the wrong type": ({"position_encoding": WAVELET | {"wavelet": 3}}, "position_encoding.wavelet", "3"),
    "negative shift": (
        {"position_encoding": WAVELET | {"shifts": [0, 1, 2, 3, 4, 5, 6, -7]}},
        "position_encoding.shifts",
        "-7",
    ),
    "negative exponent": (
        {"position_encoding": WAVELET | {"scale_exponents": [0, 1, 2, -3]}},
        "position_encoding.scale_exponents",
        "-3",
    ),
    "empty list": ({"position_encoding": WAVELET | {"shifts": []}}, "position_encoding.shifts", "empty"),
    "fractional shift": ({"position_encoding": WAVELET | {"shifts": [0.5] * 8}}, "position_encoding.shifts", "0.5"),
    "product is not head_dim": ({"head_dim": 16}, "position_encoding.scale_exponents", "head_dim is 16"),
    "no train_length": ({"train_length": None}, "train_length", "None"),
    "zero train_length": ({"train_length": 0}, "train_length", "0"),
    "fractional train_length": ({"train_length": 512.5}, "train_length", "512.5"),
    "boolean train_length": ({"train_length": True}, "train_length", "True"),
    "train_length without a logarithm": ({"train_length": 1, "logit_scaling": "log_n"}, "train_length", "1"),
    "unknown logit scaling": ({"logit_scaling": "sqrt_n"}, "logit_scaling", "'sqrt_n'"),
    "logit scaling of the wrong type": ({"logit_scaling": []}, "logit_scaling", "[]"),
    "logit scaling length of 1": (
        {"logit_scaling": "log_n", "logit_scaling_length": 1},
        "logit_scaling_length",
        "from 2 to train_length=16",
    ),
    "logit scaling length past training": (
        {"logit_scaling": "log_n", "logit_scaling_length": 17},
        "logit_scaling_length",
        "from 2 to train_length=16",
    ),
    "fractional logit scaling length": (
        {"logit_scaling": "log_n", "logit_scaling_length": 8.0},
        "logit_scaling_length",
        "8.0",
    ),
    "boolean logit scaling length": (
        {"logit_scaling": "log_n", "logit_scaling_length": True},
        "logit_scaling_length",
        "True",
    ),
    "logit scaling length without scaling": ({"logit_scaling_length": 8}, "logit_scaling_length", "'none'"),
    "negative near bias": ({"near_bias_slope": -0.1, "near_bias_keys": 8}, "near_bias_slope", "-0.1"),
    "infinite near bias": ({"near_bias_slope": float("inf"), "near_bias_keys": 8}, "near_bias_slope", "inf"),
    "boolean near bias": ({"near_bias_slope": True, "near_bias_keys": 8}, "near_bias_slope", "True"),
    "near bias of the wrong type": ({"near_bias_slope": "0.5"}, "near_bias_slope", "'0.5'"),
    "near bias without keys": ({"near_bias_slope": 0.5}, "near_bias_keys", "None"),
    "near bias of no keys": ({"near_bias_slope": 0.5, "near_bias_keys": 0}, "near_bias_keys", "0"),
    "near bias of part of a key": ({"near_bias_slope": 0.5, "near_bias_keys": 8.5}, "near_bias_keys", "8.5"),
    "near keys without a bias": ({"near_bias_keys": 8}, "near_bias_keys", "without near_bias_slope"),
    "near bias without wavelets": (
        {"near_bias_slope": 0.5, "near_bias_keys": 8, "position_encoding": {"type": "rope"}},
        "near_bias_slope",
        "'rope'",
    ),
    "heads do not divide": ({"num_key_value_heads": 4}, "num_key_value_heads", "4"),
    "heads do not divide the width": ({"hidden_size": 100}, "hidden_size", "multiple of 6 heads"),
    "no heads": ({"num_attention_heads": 0}, "num_attention_heads", "0"),
    "no key heads": ({"num_key_value_heads": 0}, "num_key_value_heads", "0"),
    "scaled rope without rope": (
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
        "rope_parameters.rope_type",
        "'linear'",
    ),
}


@pytest.mark.parametrize(("changes", "field", "named"), BROKEN.values(), ids=BROKEN)
def test_a_broken_entry_is_refused_by_name_and_value(changes, field, named):
    with pytest.raises(WaveletConfigError) as caught:
        WaveletLlamaConfig(**config_entries(**changes))
    assert isinstance(caught.value, ValueError)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}=")
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["position_encoding", "train_length"])
def test_a_config_file_without_a_required_entry_is_refused(tmp_path, key):
    WaveletLlamaConfig(**config_entries()).save_pretrained(tmp_path)
    entries = json.loads((tmp_path / "config.json").read_text())
    del entries[key]
    (tmp_path / "config.json").write_text(json.dumps(entries))
    with pytest.raises(WaveletConfigError, match=key):
        AutoConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(("changes", "field", "named"), BROKEN.values(), ids=BROKEN)
def test_an_entry_made_wrong_later_is_refused_by_name_and_value(changes, field, named):
    config = WaveletLlamaConfig(**config_entries())
    config.update(changes)
    with pytest.raises(WaveletConfigError) as caught:
        config.validate()
    assert caught.value.field == field
    assert named in str(caught.value)


def test_an_entry_made_wrong_later_is_not_written(tmp_path):
    config = WaveletLlamaConfig(**config_entries())
    config.train_length = -3
    with pytest.raises(WaveletConfigError, match="train_length=-3"):
        config.save_pretrained(tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_no_model_is_built_from_an_entry_made_wrong_later(tmp_path):
    build().save_pretrained(tmp_path)
    with pytest.raises(WaveletConfigError, match="logit_scaling='logn'"):
        WaveletLlamaForCausalLM.from_pretrained(tmp_path, logit_scaling="logn")


@each_position
def test_every_position_type_round_trips_through_a_file(tmp_path, position):
    config = WaveletLlamaConfig(**config_entries(position_encoding=position, logit_scaling="log_n"))
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, WaveletLlamaConfig)
    written = json.loads((tmp_path / "config.json").read_text())
    # Every entry of the interface is written even where it has the default value: other programs read this file.
    assert written["model_type"] == "wavelet_llama"
    for entries in (written, loaded.to_dict(), WaveletLlamaConfig(**loaded.to_dict()).to_dict()):
        assert entries["position_encoding"] == position
        assert entries["train_length"] == 16
        assert entries["logit_scaling"] == "log_n"
        assert entries["rope_parameters"] == {"rope_theta": 10000.0, "rope_type": "default"}


def test_the_default_logit_scaling_is_written_too(tmp_path):
    WaveletLlamaConfig(**config_entries()).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert (written["logit_scaling"], written["logit_scaling_length"]) == ("none", None)


@pytest.mark.parametrize(
    ("entries", "length"),
    [
        ({}, None),
        ({"logit_scaling": "log_n"}, 16),
        ({"logit_scaling": "log_n", "logit_scaling_length": 5}, 5),
    ],
)
def test_log_n_begins_at_its_own_length_or_the_training_length(tmp_path, entries, length):
    WaveletLlamaConfig(**config_entries(**entries)).save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).log_n_length == length


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5},
        {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
        {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 128},
    ],
    ids=lambda rope: rope["rope_type"],
)
def test_scaled_rope_is_admitted_and_kept_for_rope(tmp_path, rope):
    WaveletLlamaConfig(
        **config_entries(position_encoding={"type": "rope"}, rope_parameters=dict(rope))
    ).save_pretrained(tmp_path)
    assert rope.items() <= AutoConfig.from_pretrained(tmp_path).rope_parameters.items()


def test_head_dim_and_key_heads_default_as_in_llama():
    config = WaveletLlamaConfig(**config_entries(hidden_size=192, head_dim=None, num_key_value_heads=None))
    assert (config.head_dim, config.num_key_value_heads) == (32, 6)


def test_only_a_wavelet_config_has_table_parameters():
    table = WaveletLlamaConfig(**config_entries()).position_table_parameters
    assert table == {key: WAVELET[key] for key in ("wavelet", "scale_exponents", "shifts")}
    with pytest.raises(WaveletConfigError, match="'nope'"):
        _ = WaveletLlamaConfig(**config_entries(position_encoding={"type": "nope"})).position_table_parameters
