"""The attention op on CPU: the native kernel of ``csrc/``, on the cache where it lies."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING

import torch

from model_registry.attention.arguments import check_values
from model_registry.attention.native.constants import ELEMENT_TYPES
from model_registry.attention.native.kernel_arguments import KernelArguments
from model_registry.attention.native.library import NativeLibraryUnavailableError, load_library
from model_registry.attention.native.packed_table import packed_table

if TYPE_CHECKING:
    from model_registry.attention.batch import PagedBatch

_ELEMENT_TYPES = {getattr(torch, name): number for number, name in enumerate(ELEMENT_TYPES)}


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
    starts, lengths, projection = query_start_loc.contiguous(), seq_lens.contiguous(), packed.projection
    num_blocks, block_size, H_kv, d = k_cache.shape
    arguments = KernelArguments(
        q=q.data_ptr(),
        k_cache=k_cache.data_ptr(),
        v_cache=v_cache.data_ptr(),
        out=out.data_ptr(),
        block_table=block_table.data_ptr(),
        query_start_loc=starts.data_ptr(),
        seq_lens=lengths.data_ptr(),
        table=packed.columns.data_ptr(),
        projection=None if projection is None else projection.data_ptr(),
        ranks=packed.ranks.data_ptr(),
        q_strides=q.stride(),
        k_strides=k_cache.stride(),
        v_strides=v_cache.stride(),
        out_strides=out.stride(),
        block_table_strides=block_table.stride(),
        T=q.shape[0],
        S=block_table.shape[0],
        H=q.shape[1],
        H_kv=H_kv,
        d=d,
        num_blocks=num_blocks,
        block_size=block_size,
        max_blocks=block_table.shape[1],
        R=table.shape[0],
        table_stride=packed.columns.shape[1],
        projection_columns=0 if projection is None else projection.shape[1],
        element_type=element_type,
        scale=scale,
    )
    if _library().wavelet_attention(ctypes.byref(arguments)):
        check_values(batch)
        raise AssertionError("check_values accepts what the kernel refuses")


@cache
def _library() -> ctypes.CDLL:
    """The library; its idea of the arguments' size is checked, as it would read past them or skip some."""
    library = load_library()[0]
    size = library.wavelet_attention_arguments_size()
    assert size == ctypes.sizeof(KernelArguments), f"struct Arguments has {size} bytes in csrc/attention.cpp"
    return library


@cache
def _pack(element_type: int) -> int:
    return int(_library().wavelet_attention_pack(element_type))
