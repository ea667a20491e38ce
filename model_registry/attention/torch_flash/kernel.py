"""What ``decode`` and ``prefill`` share: PyTorch's flash kernel, and copies of cached blocks that it can read."""

from __future__ import annotations

import math

import torch

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


class BlockReader:
    """Copies cached blocks into the form that the kernel reads: by head, in the type to compute in.

    The copies lie in buffers that every read overwrites: fresh memory would cost a page fault every few keys.
    """

    def __init__(self, k_cache: torch.Tensor, v_cache: torch.Tensor, max_keys: int, compute: torch.dtype) -> None:
        _, self.block_size, self.H_kv, d = k_cache.shape
        self._caches = (k_cache, v_cache)
        self._cached = torch.empty(self.H_kv * max_keys * d, dtype=k_cache.dtype)
        self._computed = torch.empty(2, self.H_kv * max_keys * d, dtype=compute)

    def read(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of blocks ``ids``, each ``[H_kv, len(ids) * block, d]``, until the next read."""
        _, block_size, H_kv, d = self._caches[0].shape
        shape = (H_kv, ids.shape[0], block_size, d)
        elements = math.prod(shape)
        for cache, computed in zip(self._caches, self._computed, strict=True):
            same_type = cache.dtype is computed.dtype
            cached = (computed if same_type else self._cached)[:elements]
            torch.index_select(cache, 0, ids, out=cached.view(shape).permute(1, 2, 0, 3))
            if not same_type:
                computed[:elements] = cached
        k, v = self._computed[:, :elements].view(2, H_kv, -1, d)
        return k, v


def flash(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """``softmax(q k^T + bias) v`` and the log of its denominator.

    Args:
        q: ``[N, H, n_q, d]``, scaled.
        k: ``[N, H_kv, keys, d]``; ``H_kv`` divides ``H``.
        v: ``[N, H_kv, keys, d]``.
        bias: ``[N, H, n_q, keys]``, any strides; every query must have a finite one.

    Returns:
        ``[N, H, n_q, d]`` and ``[N, H, n_q]``.
    """
    output, lse = _flash(q, k, v, attn_mask=bias, scale=1.0)
    return output, lse
