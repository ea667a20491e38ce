"""Which way prompts go on a GPU: in one kernel, or in two parts, with vLLM's FlashAttention for the far keys."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch
from vllm.logger import init_logger
from vllm.platforms import current_platform

from model_registry.vllm_plugin.errors import UnsupportedByWaveletAttentionError

if TYPE_CHECKING:
    from model_registry.attention.batch import PagedBatch

logger = init_logger(f"vllm.{__name__}")  # vLLM shows what is logged under its own name

VARIABLE = "WAVELET_GPU_PREFILL"
"""Environment variable that asks for a way: ``auto``, ``fused`` or ``split``."""

ON_ITS_OWN = 3
"""The version of FlashAttention that is taken without being asked for."""

MOST_ROWS = 4096
"""Most rows of a table in two parts: near keys cost several times what far ones do, and memory."""


class FlashAttention:
    """vLLM's FlashAttention of one version as a ``PlainAttention``: causal attention over the paged cache."""

    def __init__(self, version: int) -> None:
        from vllm.v1.attention.backends.fa_utils import flash_attn_varlen_func

        self.version = version
        self._attend = flash_attn_varlen_func

    def __call__(self, batch: PagedBatch, out: torch.Tensor, max_query_len: int, max_seq_len: int) -> torch.Tensor:
        """Attention into ``out`` ``[T, H, d]``; the log-sum-exp ``[H, T]``, infinite in rows without keys."""
        _, lse = self._attend(
            q=batch.q,
            k=batch.k_cache,
            v=batch.v_cache,
            out=out,
            cu_seqlens_q=batch.query_start_loc,
            max_seqlen_q=max_query_len,
            seqused_k=batch.seq_lens,
            max_seqlen_k=max_seq_len,
            softmax_scale=batch.scale,
            causal=True,
            block_table=batch.block_table,
            fa_version=self.version,
            return_softmax_lse=True,
        )
        return lse


def asked_way() -> str:
    """``auto``, ``fused`` or ``split``, whichever the variable asks for.

    Raises:
        UnsupportedByWaveletAttentionError: it asks for something else.
    """
    asked = os.environ.get(VARIABLE, "auto")
    if asked not in ("auto", "fused", "split"):
        raise UnsupportedByWaveletAttentionError(VARIABLE, asked, "it is auto, fused or split")
    return asked


def flash_attention(head_size: int, dtype: torch.dtype, cache_dtype: torch.dtype, rows: int) -> FlashAttention | None:
    """The kernel for the far keys of prompts, or None where one kernel of ours does all, for a reason that is logged.

    ``auto`` takes two parts with FlashAttention 3: an engine has served so on a GPU, where the kernels were faster
    (docs/gpu-attention.md). ``split`` takes them with any version that vLLM has for the GPU.

    Args:
        head_size: of the model.
        dtype: of the queries.
        cache_dtype: of the cache. FlashAttention takes that of the queries; over a float8 cache it would round the
            queries to float8 too, which costs digits that the fused kernel keeps.
        rows: of the position table.

    Raises:
        UnsupportedByWaveletAttentionError: the variable asks for ``split`` where it cannot be, or for something else.
    """
    asked, version = asked_way(), _version(head_size)
    against = None
    if version is None:
        against = "vLLM has no FlashAttention for this device and head size"
    elif dtype not in (torch.float16, torch.bfloat16):
        against = f"FlashAttention does not take {dtype}"
    elif cache_dtype is torch.float8_e4m3fn:
        against = "over a float8 cache FlashAttention rounds queries to float8 too"
    elif cache_dtype is not dtype:
        against = f"FlashAttention does not take {dtype} over a cache of {cache_dtype}"
    elif rows > MOST_ROWS:
        against = f"the position table has {rows} rows, more than {MOST_ROWS}"
    if asked == "split" and against is not None:
        raise UnsupportedByWaveletAttentionError(VARIABLE, asked, against)
    if asked == "fused":
        against = f"{VARIABLE}=fused"
    elif asked == "auto" and version != ON_ITS_OWN:
        against = against or f"no engine has served with FlashAttention {version} yet; {VARIABLE}=split asks for it"
    if against is not None or version is None:
        log_one_kernel(against)
        return None
    return FlashAttention(version)


def log_one_kernel(against: str | None) -> None:
    """Once, why prompts do not go in two parts."""
    logger.info_once("Wavelet attention: prompts in one kernel (%s)", against)


def log_two_parts(kernel: FlashAttention) -> None:
    """Once, that prompts go in two parts."""
    name = f"FlashAttention {kernel.version}"
    logger.info_once("Wavelet attention: far keys of prompts by %s, near keys by our kernel", name)


def _version(head_size: int) -> int | None:
    """The version of FlashAttention that vLLM runs on this device for the head size."""
    if not current_platform.is_cuda():
        return None
    from vllm.v1.attention.backends.fa_utils import get_flash_attn_version

    return get_flash_attn_version(head_size=head_size) if head_size % 8 == 0 else None
