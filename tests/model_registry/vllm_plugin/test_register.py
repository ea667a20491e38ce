"""The vLLM entry point: idempotent, strict about the vLLM version, and clear about what the backend refuses."""

import logging
from importlib.metadata import entry_points

import pytest
import torch
import vllm
from transformers import AutoConfig
from vllm import ModelRegistry
from vllm.v1.attention.backends.registry import AttentionBackendEnum

import model_registry
from model_registry.configuration_wavelet import WaveletLlamaConfig
from model_registry.vllm_plugin.backend import BACKEND_NAME, WaveletAttentionBackend
from model_registry.vllm_plugin.cpu import WaveletAttentionImpl
from model_registry.vllm_plugin.errors import UnsupportedByWaveletAttentionError

TABLE = torch.ones(3, 32)


def test_vllm_finds_the_plugin_by_its_entry_point() -> None:
    [entry] = entry_points(group="vllm.general_plugins", name="wavelet")
    assert entry.load() is model_registry.register


def test_registering_twice_leaves_one_of_each(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("vllm").addHandler(caplog.handler)  # vLLM's loggers do not propagate
    model_registry.register()
    model_registry.register()
    assert "WaveletLlamaForCausalLM" in ModelRegistry.get_supported_archs()
    assert AttentionBackendEnum[BACKEND_NAME].get_class() is WaveletAttentionBackend
    assert isinstance(AutoConfig.for_model("wavelet_llama", **_config()), WaveletLlamaConfig)
    assert "already registered" not in caplog.text


@pytest.mark.parametrize("version", ["0.31.2", "0.33.0", "1.0.0", "0.320.0"])
def test_another_vllm_series_is_refused_by_name(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "__version__", version)
    with pytest.raises(model_registry.UnsupportedVllmVersionError, match=version) as caught:
        model_registry.register()
    assert "0.32" in str(caught.value)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("alibi_slopes", [0.5, 0.25]),
        ("sliding_window", 128),
        ("logits_soft_cap", 30.0),
        ("kv_cache_dtype", "fp8"),
        ("attn_type", "encoder_only"),
        ("kv_sharing_target_layer_name", "model.layers.0.self_attn.attn"),
    ],
)
def test_what_wavelet_attention_cannot_do_is_refused_at_start(argument: str, value: object) -> None:
    with pytest.raises(UnsupportedByWaveletAttentionError, match=argument) as caught:
        WaveletAttentionImpl(2, 32, 1.0, **{argument: value}, table=TABLE)
    assert caught.value.value == value


def test_padding_slots_are_not_written() -> None:
    impl = WaveletAttentionImpl(2, 32, 1.0, num_kv_heads=2, table=TABLE)
    cache = torch.zeros(3, 2, 16, 64)
    key, value = torch.ones(4, 2, 32), torch.full((4, 2, 32), 2.0)
    impl.do_kv_cache_update(torch.nn.Module(), key, value, cache, torch.tensor([17, -1, 47]))
    written = cache.abs().sum(dim=(1, 3)).nonzero().tolist()
    assert written == [[1, 1], [2, 15]]
    assert torch.equal(cache[1, :, 1], torch.cat((key[0], value[0]), dim=-1))


def _config() -> dict:
    return {
        "head_dim": 4,
        "num_attention_heads": 2,
        "hidden_size": 8,
        "train_length": 16,
        "position_encoding": {"type": "wavelet", "wavelet": "haar", "scale_exponents": [0, 1], "shifts": [0, 1]},
    }
