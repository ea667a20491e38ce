"""The one argument of the native kernel: ``struct Arguments`` of ``csrc/attention.cpp``, field by field."""

from __future__ import annotations

import ctypes
from typing import ClassVar

_ADDRESSES = "q k_cache v_cache out block_table query_start_loc seq_lens table projection ranks"
_SIZES = "T S H H_kv d num_blocks block_size max_blocks R table_stride projection_columns element_type bias_length"


class KernelArguments(ctypes.Structure):
    """A batch as the kernel reads it: addresses, strides in elements, and the sizes that ``PagedBatch`` names."""

    __slots__ = ()  # so that a misspelt field raises
    _fields_: ClassVar = [
        *((name, ctypes.c_void_p) for name in _ADDRESSES.split()),
        ("q_strides", ctypes.c_int64 * 3),
        ("k_strides", ctypes.c_int64 * 4),
        ("v_strides", ctypes.c_int64 * 4),
        ("out_strides", ctypes.c_int64 * 3),
        ("block_table_strides", ctypes.c_int64 * 2),
        *((name, ctypes.c_int64) for name in _SIZES.split()),
        ("scale", ctypes.c_double),
        ("bias_slope", ctypes.c_double),
    ]
