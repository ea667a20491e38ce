"""The one argument of the native kernel: ``struct Arguments`` of ``csrc/attention.cpp``, field by field."""

from __future__ import annotations

import ctypes
from typing import ClassVar


class KernelArguments(ctypes.Structure):
    """A batch as the kernel reads it: addresses, strides in elements, and the sizes that ``PagedBatch`` names."""

    __slots__ = ()  # so that a misspelt field raises
    _fields_: ClassVar = [
        ("q", ctypes.c_void_p),
        ("k_cache", ctypes.c_void_p),
        ("v_cache", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("block_table", ctypes.c_void_p),
        ("query_start_loc", ctypes.c_void_p),
        ("seq_lens", ctypes.c_void_p),
        ("table", ctypes.c_void_p),
        ("projection", ctypes.c_void_p),
        ("ranks", ctypes.c_void_p),
        ("q_strides", ctypes.c_int64 * 3),
        ("k_strides", ctypes.c_int64 * 4),
        ("v_strides", ctypes.c_int64 * 4),
        ("out_strides", ctypes.c_int64 * 3),
        ("block_table_strides", ctypes.c_int64 * 2),
        ("T", ctypes.c_int64),
        ("S", ctypes.c_int64),
        ("H", ctypes.c_int64),
        ("H_kv", ctypes.c_int64),
        ("d", ctypes.c_int64),
        ("num_blocks", ctypes.c_int64),
        ("block_size", ctypes.c_int64),
        ("max_blocks", ctypes.c_int64),
        ("R", ctypes.c_int64),
        ("table_stride", ctypes.c_int64),
        ("projection_columns", ctypes.c_int64),
        ("element_type", ctypes.c_int64),
        ("scale", ctypes.c_double),
    ]
