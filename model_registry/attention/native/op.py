"""The attention op on CPU: the native kernel of ``csrc/``, on the cache where it lies."""

from __future__ import annotations

import struct
from functools import cache
from typing import TYPE_CHECKING

import torch

from model_registry.attention.arguments import check_values
from model_registry.attention.native.library import NativeLibraryUnavailableError, load_library
from model_registry.attention.native.packed_table import packed_table

if TYPE_CHECKING:
    from model_registry.attention.batch import PagedBatch

_ELEMENT_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}

_ARGUMENTS = struct.Struct("@10P 16q 12q d")
"""``Arguments`` of ``csrc/attention.cpp``: pointers, strides, sizes, the scale."""


def unavailable() -> str | None:
    """Why this implementation cannot be used here, or ``None``."""
    try:
        load_library()
    except NativeLibraryUnavailableError as error:
        return error.reason
    return None


def attention(batch: PagedBatch, out: torch.Tensor) -> None:
    """``wavelet_attention`` for CPU tensors, into ``out`` ``[T, H, d]``.

    Raises:
        AttentionArgumentError: a value of an index tensor is out of bounds.
        NativeLibraryUnavailableError: there is no library and none can be built.
    """
    q, k_cache, v_cache, block_table, query_start_loc, seq_lens, table, scale = batch
    element_type = _ELEMENT_TYPES[q.dtype]
    packed = packed_table(table, q.dtype, _pack(element_type))
    starts, lengths = query_start_loc.contiguous(), seq_lens.contiguous()
    projection = packed.projection
    B, block_size, H_kv, d = k_cache.shape
    T, H, _ = q.shape
    arguments = _ARGUMENTS.pack(
        q.data_ptr(),
        k_cache.data_ptr(),
        v_cache.data_ptr(),
        out.data_ptr(),
        block_table.data_ptr(),
        starts.data_ptr(),
        lengths.data_ptr(),
        packed.columns.data_ptr(),
        0 if projection is None else projection.data_ptr(),
        packed.ranks.data_ptr(),
        *q.stride(),
        *k_cache.stride(),
        *v_cache.stride(),
        *out.stride(),
        *block_table.stride(),
        T,
        *block_table.shape[:1],
        H,
        H_kv,
        d,
        B,
        block_size,
        block_table.shape[1],
        table.shape[0],
        packed.columns.shape[1],
        0 if projection is None else projection.shape[1],
        element_type,
        scale,
    )
    if load_library()[0].wavelet_attention(arguments):
        check_values(batch)
        raise AssertionError("check_values accepts what the kernel refuses")


@cache
def _pack(element_type: int) -> int:
    return int(load_library()[0].wavelet_attention_pack(element_type))
