"""The vLLM backend on GPUs: what it refuses at start, and its implementation under Triton's interpreter."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.python import run
from vllm.v1.attention.backend import AttentionCGSupport

from model_registry.vllm_plugin import backend, base, gpu
from model_registry.vllm_plugin.backend import WaveletAttentionBackend
from model_registry.vllm_plugin.cpu import WaveletCpuAttentionImpl
from model_registry.vllm_plugin.errors import UnsupportedByWaveletAttentionError
from model_registry.vllm_plugin.gpu import WaveletGpuAttentionImpl

TABLE = torch.ones(3, 32)


class Platform:
    """Stands in for a platform that is not here."""

    device_type = "cuda"

    def __init__(self, kind: str = "cuda", capability: int = 90, float8: torch.dtype = torch.float8_e4m3fn) -> None:
        self.kind, self.capability, self.float8 = kind, capability, float8

    def is_cpu(self) -> bool:
        return self.kind == "cpu"

    def is_cuda(self) -> bool:
        return self.kind == "cuda"

    def is_cuda_alike(self) -> bool:
        return self.kind in ("cuda", "rocm")

    def is_xpu(self) -> bool:
        return self.kind == "xpu"

    def has_device_capability(self, capability: int) -> bool:
        return self.capability >= capability

    def fp8_dtype(self) -> torch.dtype:
        return self.float8


def on(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (backend, base, gpu):
        monkeypatch.setattr(module, "current_platform", platform)


@pytest.mark.parametrize(
    ("kind", "implementation"),
    [
        ("cpu", WaveletCpuAttentionImpl),
        ("cuda", WaveletGpuAttentionImpl),
        ("rocm", WaveletGpuAttentionImpl),
        ("xpu", WaveletGpuAttentionImpl),
    ],
)
def test_the_platform_decides_the_implementation(kind, implementation, monkeypatch) -> None:
    on(Platform(kind), monkeypatch)
    assert WaveletAttentionBackend.get_impl_cls() is implementation


def test_a_platform_without_kernels_is_refused(monkeypatch) -> None:
    on(Platform("tpu"), monkeypatch)
    with pytest.raises(UnsupportedByWaveletAttentionError, match="device"):
        WaveletAttentionBackend.get_impl_cls()


@pytest.mark.parametrize(
    ("platform", "kv_cache_dtype", "reason"),
    [
        (Platform(capability=80), "fp8", "compute capability 8.9"),
        (Platform(capability=75), "bfloat16", "compute capability 8.0"),
        (Platform("rocm", float8=torch.float8_e4m3fnuz), "fp8_e4m3", "float8_e4m3fnuz"),
        (Platform(), "fp8_e5m2", "use one of auto, float16, bfloat16, fp8, fp8_e4m3"),
        (Platform(), "int8_per_token_head", "use one of"),
    ],
)
def test_caches_that_the_kernels_cannot_read_are_refused(platform, kv_cache_dtype, reason, monkeypatch) -> None:
    on(platform, monkeypatch)
    with pytest.raises(UnsupportedByWaveletAttentionError, match=reason) as caught:
        WaveletGpuAttentionImpl(2, 32, 1.0, kv_cache_dtype=kv_cache_dtype, table=TABLE)
    assert (caught.value.feature, caught.value.value) == ("kv_cache_dtype", kv_cache_dtype)


@pytest.mark.parametrize("kv_cache_dtype", ["auto", "float16", "bfloat16", "fp8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_on_gpus_a_cache_may_have_another_type_than_the_model(dtype, kv_cache_dtype, monkeypatch) -> None:
    on(Platform(), monkeypatch)
    monkeypatch.setattr(torch, "get_default_dtype", lambda: dtype)
    WaveletGpuAttentionImpl(2, 32, 1.0, kv_cache_dtype=kv_cache_dtype, table=TABLE)


def test_scales_of_single_heads_are_refused(monkeypatch) -> None:
    on(Platform(), monkeypatch)
    scheme = {"type": "float", "num_bits": 8, "strategy": "attn_head"}
    config = SimpleNamespace(quant_config=SimpleNamespace(kv_cache_scheme=scheme))
    monkeypatch.setattr(gpu, "get_current_vllm_config_or_none", lambda: config)
    with pytest.raises(UnsupportedByWaveletAttentionError, match="one scale for its keys") as caught:
        WaveletGpuAttentionImpl(2, 32, 1.0, kv_cache_dtype="fp8", table=TABLE)
    assert caught.value.value == scheme
    scheme["strategy"] = "tensor"
    WaveletGpuAttentionImpl(2, 32, 1.0, kv_cache_dtype="fp8", table=TABLE)


def test_batch_invariance_is_refused(monkeypatch) -> None:
    on(Platform(), monkeypatch)
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "1")
    with pytest.raises(UnsupportedByWaveletAttentionError, match="how many parts"):
        WaveletGpuAttentionImpl(2, 32, 1.0, table=TABLE)


def test_heads_that_the_kernels_cannot_hold_are_refused(monkeypatch) -> None:
    on(Platform(), monkeypatch)
    with pytest.raises(UnsupportedByWaveletAttentionError, match="head_size") as caught:
        WaveletGpuAttentionImpl(2, 320, 1.0, table=torch.ones(3, 320))
    assert caught.value.value == 320


def test_what_the_cpu_refuses_is_refused_on_gpus_too(monkeypatch) -> None:
    on(Platform(), monkeypatch)
    with pytest.raises(UnsupportedByWaveletAttentionError, match="sliding_window"):
        WaveletGpuAttentionImpl(2, 32, 1.0, sliding_window=64, table=TABLE)


def test_layers_share_one_converted_table(monkeypatch) -> None:
    on(Platform(), monkeypatch)
    monkeypatch.setattr(torch, "get_default_dtype", lambda: torch.bfloat16)
    first, second = (WaveletGpuAttentionImpl(2, 32, 1.0, table=TABLE) for _ in range(2))
    assert first.table.dtype is torch.bfloat16
    assert first.table is second.table
    assert first.buffers["position_table"] is TABLE  # both are kept while vLLM sleeps
    assert first.buffers["converted_table"] is first.table


def test_graphs_are_recorded_for_batches_of_equal_query_counts_only() -> None:
    builder = WaveletAttentionBackend.get_builder_cls()
    assert builder.get_cudagraph_support(None, None) is AttentionCGSupport.UNIFORM_BATCH


RICKER = {"type": "wavelet", "wavelet": "ricker", "scale_exponents": [0, 1, 2, 3], "shifts": [*range(8)]}


def test_an_engine_in_two_parts_serves_what_the_dense_reference_computes(tmp_path) -> None:
    """Real vLLM: chunks of prompts, decodes beside them, and a prefix cache that is used; one after sleep mode."""
    model = {"heads": 4, "kv_heads": 1, "head_dim": 32, "position_encoding": RICKER, "logit_scaling": "log_n"}
    bonus = {"near_bias_slope": 0.3, "near_bias_keys": 96}
    cases, results = tmp_path / "cases.json", tmp_path / "results.json"
    cases.write_text(json.dumps([model | {"dtype": "float32", "slept": True}, model | {"dtype": "float32"} | bonus]))
    run(Path(__file__).with_name("engine_interpreted.py"), cases, results, TRITON_INTERPRET="1")
    for result in json.loads(results.read_text()):
        assert max(result["prefill"], result["decode"]) < 1e-3
        assert result["cached_tokens"] > 0
        assert result["position_effect"] > 0.1


def test_the_gpu_implementation_computes_what_the_cpu_one_does() -> None:
    script = Path(__file__).with_name("gpu_interpreted.py")
    assert run(script, TRITON_INTERPRET="1").endswith("in bounds")
