"""The vLLM entry point: idempotent, strict about the vLLM version, and clear about what the backend refuses."""

import logging
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import vllm
from transformers import AutoConfig
from vllm import ModelRegistry
from vllm.v1.attention.backends.registry import AttentionBackendEnum

import model_registry
from model_registry.configuration_wavelet import WaveletConfigError, WaveletLlamaConfig
from model_registry.vllm_plugin.backend import BACKEND_NAME, WaveletAttentionBackend
from model_registry.vllm_plugin.cpu import WaveletCpuAttentionImpl
from model_registry.vllm_plugin.errors import UnsupportedByWaveletAttentionError
from model_registry.vllm_plugin.model import WaveletLlamaForCausalLM

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


@pytest.mark.parametrize("version", ["0.31.2", "0.34.0", "1.0.0", "0.320.0", "0.3.3"])
def test_another_vllm_series_is_refused_by_name(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "__version__", version)
    with pytest.raises(model_registry.UnsupportedVllmVersionError, match=version) as caught:
        model_registry.register()
    assert "0.32 to 0.33" in str(caught.value)


@pytest.mark.parametrize("version", ["0.32.0", "0.32.1", "0.33.0", "0.33.2+cu130"])
def test_both_series_are_taken(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "__version__", version)
    model_registry.register()


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
        WaveletCpuAttentionImpl(2, 32, 1.0, **{argument: value}, table=TABLE)
    assert caught.value.value == value


@pytest.mark.parametrize(
    ("dtype", "kv_cache_dtype", "taken"),
    [
        (torch.float32, "auto", True),
        (torch.bfloat16, "auto", True),
        (torch.bfloat16, "bfloat16", True),
        (torch.float16, "float16", True),
        (torch.float32, "bfloat16", False),
        (torch.bfloat16, "float16", False),
        (torch.float16, "bfloat16", False),
    ],
)
def test_on_a_cpu_a_cache_has_the_type_of_the_model(
    dtype: torch.dtype, kv_cache_dtype: str, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_default_dtype", lambda: dtype)
    if taken:
        WaveletCpuAttentionImpl(2, 32, 1.0, kv_cache_dtype=kv_cache_dtype, table=TABLE)
        return
    with pytest.raises(UnsupportedByWaveletAttentionError, match=f"the model's type, {dtype}: use auto") as caught:
        WaveletCpuAttentionImpl(2, 32, 1.0, kv_cache_dtype=kv_cache_dtype, table=TABLE)
    assert (caught.value.feature, caught.value.value) == ("kv_cache_dtype", kv_cache_dtype)


@pytest.mark.parametrize(
    ("field", "value"),
    [("logit_scaling", "logn"), ("position_encoding", {"type": "rop"}), ("near_bias_slope", -0.2), ("train_length", 0)],
)
def test_an_entry_that_is_overridden_with_nonsense_ends_the_start(field: str, value: object) -> None:
    """As `--hf-overrides` does, after the config was read."""
    config = WaveletLlamaConfig(**_config())
    config.update({field: value})
    with pytest.raises(WaveletConfigError, match=field):
        WaveletLlamaForCausalLM(vllm_config=SimpleNamespace(model_config=SimpleNamespace(hf_config=config)))


def test_padding_slots_are_not_written() -> None:
    impl = WaveletCpuAttentionImpl(2, 32, 1.0, num_kv_heads=2, table=TABLE)
    cache = torch.zeros(3, 2, 16, 64)
    key, value = torch.ones(4, 2, 32), torch.full((4, 2, 32), 2.0)
    impl.do_kv_cache_update(torch.nn.Module(), key, value, cache, torch.tensor([17, -1, 47]))
    written = cache.abs().sum(dim=(1, 3)).nonzero().tolist()
    assert written == [[1, 1], [2, 15]]
    assert torch.equal(cache[1, :, 1], torch.cat((key[0], value[0]), dim=-1))


def test_registering_asks_the_kernel_for_amx_tiles_where_the_cpu_has_them() -> None:
    """In a process of its own, since the permission cannot be given back."""
    has_tiles = " amx_tile" in Path("/proc/cpuinfo").read_text()
    tile_data = bool(_permitted_state("import model_registry; model_registry.register()") & 1 << TILE_DATA)
    assert tile_data == has_tiles


@pytest.mark.parametrize("granted", [True, False])
def test_a_kernel_that_refuses_amx_tiles_is_reported(
    granted: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("vllm").addHandler(caplog.handler)
    asked = []
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_init_amx", lambda: asked.append("tiles") or granted)
    model_registry.register()
    assert asked == ["tiles"]
    assert ("SIGILL" in caplog.text) is not granted


def test_a_cpu_without_amx_tiles_is_asked_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_init_amx", lambda: pytest.fail("asked for tiles that the CPU does not have"))
    model_registry.register()


TILE_DATA = 18  # the bit of AMX tile data among the processor's extended states
READ_PERMITTED_STATES = """
import ctypes
states = ctypes.c_uint64()
arch_prctl, get_permitted = 158, 0x1022  # the system call, and its command ARCH_GET_XCOMP_PERM
refused = ctypes.CDLL(None).syscall(arch_prctl, get_permitted, ctypes.byref(states))
print("states", 0 if refused else states.value)
"""


def _permitted_state(before: str) -> int:
    """Bit mask of the extended states that Linux permits a new process after it ran `before`; 0 on Linux < 5.16."""
    run = subprocess.run(
        [sys.executable, "-c", before + READ_PERMITTED_STATES], capture_output=True, text=True, check=True
    )
    return int(run.stdout.rsplit("states ", 1)[1])


def _config() -> dict:
    return {
        "head_dim": 4,
        "num_attention_heads": 2,
        "hidden_size": 8,
        "train_length": 16,
        "position_encoding": {"type": "wavelet", "wavelet": "haar", "scale_exponents": [0, 1], "shifts": [0, 1]},
    }
