"""The attention op on CPU: the native kernel of ``native/``, on the cache where it lies."""

from __future__ import annotations

import ctypes
from functools import cache

import torch

from model_registry.attention.native_library import NativeLibraryUnavailableError, load_library
from model_registry.attention.packed_table import packed_table

_ELEMENT_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}

_POINTERS = (
    "q",
    "k_cache",
    "v_cache",
    "out",
    "block_table",
    "query_start_loc",
    "seq_lens",
    "table",
    "projection",
    "ranks",
)
_STRIDES = (("q", 3), ("k", 4), ("v", 4), ("out", 3), ("block_table", 2))
_SIZES = ("S", "H", "H_kv", "d", "block_size", "R", "table_stride", "projection_columns")


class _Arguments(ctypes.Structure):
    """``Arguments`` of ``native/attention.cpp``."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((f"{name}_strides", ctypes.c_int64 * n) for name, n in _STRIDES),
        *((name, ctypes.c_int64) for name in _SIZES),
        ("scale", ctypes.c_double),
        ("element_type", ctypes.c_int32),
    )


def unavailable() -> str | None:
    """Why this implementation cannot be used here, or ``None``."""
    try:
        load_library()
    except NativeLibraryUnavailableError as error:
        return error.reason
    return None


def attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_table: torch.Tensor,
    query_start_loc: torch.Tensor,
    seq_lens: torch.Tensor,
    table: torch.Tensor,
    scale: float,
    out: torch.Tensor,
) -> None:
    """``wavelet_attention`` for CPU tensors; the arguments are its own.

    Raises:
        NativeLibraryUnavailableError: there is no library and none can be built.
    """
    element_type = _ELEMENT_TYPES[q.dtype]
    packed = packed_table(table, q.dtype, _pack(element_type))
    starts, lengths = query_start_loc.contiguous(), seq_lens.contiguous()
    projection = packed.projection
    arguments = _Arguments(
        q.data_ptr(),
        k_cache.data_ptr(),
        v_cache.data_ptr(),
        out.data_ptr(),
        block_table.data_ptr(),
        starts.data_ptr(),
        lengths.data_ptr(),
        packed.columns.data_ptr(),
        None if projection is None else projection.data_ptr(),
        packed.ranks.data_ptr(),
        q.stride(),
        k_cache.stride(),
        v_cache.stride(),
        out.stride(),
        block_table.stride(),
        seq_lens.shape[0],
        q.shape[1],
        k_cache.shape[2],
        q.shape[2],
        k_cache.shape[1],
        table.shape[0],
        packed.columns.shape[1],
        0 if projection is None else projection.shape[1],
        scale,
        element_type,
    )
    load_library()[0].wavelet_attention(ctypes.byref(arguments))


@cache
def _pack(element_type: int) -> int:
    return int(load_library()[0].wavelet_attention_pack(element_type))
