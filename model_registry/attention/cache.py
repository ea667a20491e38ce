"""Writing new keys and values to the paged cache that ``wavelet_attention`` reads."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Protocol

import torch

from model_registry.attention.api import default_implementation
from model_registry.attention.arguments import AttentionArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable


class _Writer(Protocol):
    def write(self, key: torch.Tensor, value: torch.Tensor, slots: torch.Tensor) -> None: ...


class CacheWriter:
    """Writes new keys and values to one layer's cache on the CPU, by the native library where that is.

    A layer keeps its writer: all that does not change from step to step is worked out once. One thread at a time.

    Args:
        k_cache: ``[num_blocks, block, H_kv, d]`` paged keys, any strides.
        v_cache: ``[num_blocks, block, H_kv, d]`` paged values, likewise.

    Raises:
        AttentionArgumentError: the caches are not on the CPU, or do not have one shape and type.
    """

    def __init__(self, k_cache: torch.Tensor, v_cache: torch.Tensor) -> None:
        if k_cache.device.type != "cpu":
            raise AttentionArgumentError("k_cache", k_cache.device, "must be on the CPU")
        for argument, of_keys, of_values in (
            ("v_cache", k_cache.shape, v_cache.shape),
            ("v_cache", k_cache.dtype, v_cache.dtype),
            ("v_cache", k_cache.device, v_cache.device),
        ):
            if of_keys != of_values:
                raise AttentionArgumentError(argument, of_values, f"must be as of k_cache, {of_keys}")
        self._heads, self._type = k_cache.shape[2:], k_cache.dtype
        self._writer = _writer_class()(k_cache, v_cache)

    def write(self, key: torch.Tensor, value: torch.Tensor, slots: torch.Tensor) -> None:
        """Write the first ``T`` rows of ``key`` and ``value`` ``[.., H_kv, d]`` to ``slots`` ``[T]`` int64.

        A negative slot is padding: its row is not written. No two rows may have the same slot.

        Raises:
            AttentionArgumentError: an argument is of the wrong type or shape, or a slot lies past the cache's end.
        """
        T = slots.shape[0]
        for name, rows in (("key", key), ("value", value)):
            if not rows.is_cpu:
                raise AttentionArgumentError(name, rows.device, "must be on the CPU")
            if rows.dtype is not self._type:
                raise AttentionArgumentError(name, rows.dtype, f"must have the type of the cache, {self._type}")
            if rows.shape[1:] != self._heads or rows.shape[0] < T:
                raise AttentionArgumentError(name, tuple(rows.shape), f"must have {T} rows of {tuple(self._heads)}")
        if slots.dtype is not torch.int64:
            raise AttentionArgumentError("slots", slots.dtype, "must be int64")
        self._writer.write(key, value, slots.contiguous())


class _TorchWriter:
    """The same with PyTorch's operators, where there is no native library."""

    def __init__(self, k_cache: torch.Tensor, v_cache: torch.Tensor) -> None:
        self._caches = k_cache, v_cache

    def write(self, key: torch.Tensor, value: torch.Tensor, slots: torch.Tensor) -> None:
        blocks, size = self._caches[0].shape[:2]
        if slots.numel() and int(slots.max()) >= blocks * size:
            raise AttentionArgumentError("slots", int(slots.max()), f"the cache has slots up to {blocks * size - 1}")
        written = slots >= 0
        slots = slots[written]
        for cache_, rows in zip(self._caches, (key, value), strict=True):
            cache_[slots.div(size, rounding_mode="floor"), slots % size] = rows[: written.shape[0]][written]


@cache
def _writer_class() -> Callable[[torch.Tensor, torch.Tensor], _Writer]:
    if default_implementation("cpu") == "cpu":
        from model_registry.attention.native.cache_writer import NativeCacheWriter

        return NativeCacheWriter
    return _TorchWriter
