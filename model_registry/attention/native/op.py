"""The attention op on CPU: the native kernel of ``csrc/``, on the cache where it lies."""

from __future__ import annotations

import ctypes
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import torch

from model_registry.attention.arguments import check_values
from model_registry.attention.native.constants import ELEMENT_TYPES
from model_registry.attention.native.kernel_arguments import KernelArguments
from model_registry.attention.native.library import NativeLibraryUnavailableError, load_library
from model_registry.attention.native.packed_table import packed_table
from model_registry.attention.near_bias import NearBias

if TYPE_CHECKING:
    from model_registry.attention.batch import PagedBatch

_ELEMENT_TYPES = {getattr(torch, name): number for number, name in enumerate(ELEMENT_TYPES)}

NO_BIAS = NearBias(slope=0.0, length=0, keys=0)
"""What the kernel takes for none: its length is 0."""


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
    NativeAttention(batch, out).attend(batch.q, batch.k_cache, batch.v_cache, out)


class NativeAttention:
    """A batch's arguments as the kernel reads them, to attend with several times: as often as a step has layers.

    Raises:
        NativeLibraryUnavailableError: there is no library and none can be built.
    """

    def __init__(self, batch: PagedBatch, out: torch.Tensor) -> None:
        q, k_cache, v_cache, block_table, query_start_loc, seq_lens, table, scale, near_bias = batch
        slope, length, near_keys = near_bias or NO_BIAS
        element_type = _ELEMENT_TYPES[q.dtype]
        pack, depth = _units(element_type)
        packed = packed_table(table, q.dtype, pack, depth, near_keys)
        starts, lengths, projection = query_start_loc.contiguous(), seq_lens.contiguous(), packed.projection
        self._batch, self._kept = batch, (packed, starts, lengths)  # the kernel has their addresses
        self._function = native_library().wavelet_attention
        arguments = self._arguments = KernelArguments()
        self._address = ctypes.byref(arguments)
        arguments.block_table = block_table.data_ptr()
        arguments.query_start_loc = starts.data_ptr()
        arguments.seq_lens = lengths.data_ptr()
        arguments.table = packed.columns.data_ptr()
        arguments.projection = None if projection is None else projection.data_ptr()
        arguments.ranks = packed.ranks.data_ptr()
        arguments.q_strides = _int64s(q.stride())
        arguments.k_strides = _int64s(k_cache.stride())
        arguments.v_strides = _int64s(v_cache.stride())
        arguments.out_strides = _int64s(out.stride())
        arguments.block_table_strides = _int64s(block_table.stride())
        arguments.T, arguments.H, arguments.d = q.shape
        arguments.num_blocks, arguments.block_size, arguments.H_kv, _ = k_cache.shape
        arguments.S, arguments.max_blocks = block_table.shape
        arguments.R = table.shape[0]
        arguments.table_stride = packed.columns.shape[1]
        arguments.projection_columns = 0 if projection is None else projection.shape[1]
        arguments.element_type = element_type
        arguments.scale = scale
        arguments.bias_length = length
        arguments.bias_slope = slope

    def attend(self, q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, out: torch.Tensor) -> None:
        """Attend with tensors of the types, shapes and strides of the batch's own, which the caller has checked.

        Raises:
            AttentionArgumentError: a value of an index tensor is out of bounds.
        """
        arguments = self._arguments
        arguments.q = q.data_ptr()
        arguments.k_cache = k_cache.data_ptr()
        arguments.v_cache = v_cache.data_ptr()
        arguments.out = out.data_ptr()
        if self._function(self._address):
            check_values(self._batch)
            raise AssertionError("check_values accepts what the kernel refuses")


@lru_cache(maxsize=256)
def _int64s(values: tuple[int, ...]) -> ctypes.Array[ctypes.c_int64]:
    """An array of the kernel's arguments; kept, as calls repeat and making one takes longer than to find it."""
    return (ctypes.c_int64 * len(values))(*values)


@cache
def native_library() -> ctypes.CDLL:
    """The library; its idea of the arguments' size is checked, as it would read past them or skip some."""
    library = load_library()[0]
    size = library.wavelet_attention_arguments_size()
    assert size == ctypes.sizeof(KernelArguments), f"struct Arguments has {size} bytes in csrc/attention.cpp"
    return library


@cache
def _units(element_type: int) -> tuple[int, int]:
    """Elements in a unit, and how many units the kernel multiplies at once."""
    library = native_library()
    return library.wavelet_attention_pack(element_type), library.wavelet_attention_depth(element_type)
