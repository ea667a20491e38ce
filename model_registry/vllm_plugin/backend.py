"""vLLM attention backend for wavelet positions: names the implementation of the platform, ``cpu`` or ``gpu``.

The cache is vLLM's logical view ``[num_blocks, H_kv, block, 2 * d]``: K in the first ``d`` columns of a row, V in the
rest. K carries no position, so a cached block is valid wherever its tokens stand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from vllm.platforms import current_platform
from vllm.v1.attention.backend import AttentionBackend, MultipleOf
from vllm.v1.kv_cache_interface import KVCacheLayout

from model_registry.vllm_plugin.cpu import WaveletCpuAttentionImpl
from model_registry.vllm_plugin.errors import UnsupportedByWaveletAttentionError
from model_registry.vllm_plugin.metadata import WaveletAttentionMetadataBuilder

if TYPE_CHECKING:
    from vllm.config.cache import CacheDType
    from vllm.v1.kv_cache_interface import KVCacheSpec

    from model_registry.vllm_plugin.base import WaveletAttentionBase

BACKEND_NAME = "WAVELET"
"""Name of the backend in vLLM's ``AttentionBackendEnum``."""


class WaveletAttentionBackend(AttentionBackend):
    """What vLLM asks about wavelet attention. Only wavelet layers name it, so vLLM serves other models as ever."""

    forward_includes_kv_cache_update: bool = False
    supported_dtypes: ClassVar[list[torch.dtype]] = [torch.float32, torch.bfloat16, torch.float16]
    supported_kv_cache_dtypes: ClassVar[list[CacheDType]] = ["auto", "float16", "bfloat16", "fp8", "fp8_e4m3"]

    @staticmethod
    def get_name() -> str:
        return BACKEND_NAME

    @staticmethod
    def get_impl_cls() -> type[WaveletAttentionBase]:
        """The implementation for the platform.

        Raises:
            UnsupportedByWaveletAttentionError: there is none.
        """
        if current_platform.is_cpu():
            return WaveletCpuAttentionImpl
        if current_platform.is_cuda_alike() or current_platform.is_xpu():
            from model_registry.vllm_plugin.gpu import WaveletGpuAttentionImpl

            return WaveletGpuAttentionImpl
        reason = "there are kernels for CPUs and for what Triton compiles to"
        raise UnsupportedByWaveletAttentionError("device", current_platform.device_type, reason)

    @staticmethod
    def get_builder_cls() -> type[WaveletAttentionMetadataBuilder]:
        return WaveletAttentionMetadataBuilder

    @staticmethod
    def get_supported_kernel_block_sizes(kv_cache_spec: KVCacheSpec | None = None) -> list[int | MultipleOf]:
        """Any block size works; a smaller one costs more look-ups in the block table."""
        del kv_cache_spec
        return [MultipleOf(16)]

    @classmethod
    def supported_kv_cache_layouts(cls) -> tuple[KVCacheLayout, ...]:
        """Heads before tokens, so that one head's keys of a block are contiguous."""
        return (KVCacheLayout.LBHNC,)
