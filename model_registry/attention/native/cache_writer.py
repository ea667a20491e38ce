"""New keys and values into the paged cache, by the native library: ``csrc/cache_write.h``."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, ClassVar

from model_registry.attention.arguments import AttentionArgumentError
from model_registry.attention.native.op import native_library

if TYPE_CHECKING:
    import torch


class CacheWriteArguments(ctypes.Structure):
    """``struct CacheWrite`` of ``csrc/cache_write.h``, field by field."""

    __slots__ = ()  # so that a misspelt field raises
    _fields_: ClassVar = [
        *((name, ctypes.c_void_p) for name in ("key", "value", "slots", "k_cache", "v_cache")),
        ("key_strides", ctypes.c_int64 * 3),
        ("value_strides", ctypes.c_int64 * 3),
        ("k_strides", ctypes.c_int64 * 4),
        ("v_strides", ctypes.c_int64 * 4),
        *((name, ctypes.c_int64) for name in ("T", "H_kv", "d", "num_blocks", "block_size", "element_bytes")),
    ]


class NativeCacheWriter:
    """Writes to one layer's cache; what does not change from call to call is filled in once.

    Args:
        k_cache: ``[num_blocks, block, H_kv, d]``, any strides.
        v_cache: ``[num_blocks, block, H_kv, d]``, likewise.
    """

    def __init__(self, k_cache: torch.Tensor, v_cache: torch.Tensor) -> None:
        self._caches = k_cache, v_cache  # kept alive: the library has their addresses
        self._function = native_library().wavelet_write_cache
        self._function.restype = ctypes.c_int64
        size = native_library().wavelet_write_cache_size()
        assert size == ctypes.sizeof(CacheWriteArguments), f"struct CacheWrite has {size} bytes in csrc/cache_write.h"
        w = self._arguments = CacheWriteArguments()
        self._address = ctypes.byref(w)
        w.num_blocks, w.block_size, w.H_kv, w.d = k_cache.shape
        w.k_cache, w.v_cache = k_cache.data_ptr(), v_cache.data_ptr()
        w.k_strides[:], w.v_strides[:] = k_cache.stride(), v_cache.stride()
        w.element_bytes = k_cache.element_size()
        self._strides: tuple[tuple[int, ...], tuple[int, ...]] | None = None

    def write(self, key: torch.Tensor, value: torch.Tensor, slots: torch.Tensor) -> None:
        """Write ``key`` and ``value`` ``[T, H_kv, d]``, checked by the caller, to contiguous ``slots`` ``[T]`` int64.

        Raises:
            AttentionArgumentError: a slot lies past the cache's end; nothing is written then.
        """
        w = self._arguments
        strides = key.stride(), value.stride()
        if strides != self._strides:
            w.key_strides[:], w.value_strides[:] = strides
            self._strides = strides
        w.key = key.data_ptr()
        w.value = value.data_ptr()
        w.slots = slots.data_ptr()
        w.T = slots.shape[0]
        refused = self._function(self._address)
        if refused >= 0:
            most = w.num_blocks * w.block_size - 1
            raise AttentionArgumentError("slots", int(slots[refused]), f"the cache has slots up to {most}")
