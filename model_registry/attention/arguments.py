"""What ``wavelet_attention`` accepts: layout checks that never read a device, value checks for host tensors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from model_registry.attention.batch import PagedBatch
    from model_registry.attention.near_bias import NearBias

ELEMENT_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""Admitted element types; float64 is there for checking the others."""

DIMENSIONS = {
    "q": 3,
    "k_cache": 4,
    "v_cache": 4,
    "block_table": 2,
    "query_start_loc": 1,
    "seq_lens": 1,
    "table": 2,
    "out": 3,
}
"""Of every tensor argument, in the order of ``PagedBatch`` and of the checks."""


class AttentionArgumentError(ValueError):
    """An argument of the attention op that cannot be used; ``argument`` and ``value`` say which and what it was."""

    def __init__(self, argument: str, value: object, reason: str) -> None:
        super().__init__(f"{argument}: {reason}, got {value}")
        self.argument = argument
        self.value = value
        self.reason = reason


def check_layout(batch: PagedBatch, out: torch.Tensor | None) -> None:
    """Check types, shapes and devices against those that ``PagedBatch`` names; no tensor's data is read.

    Raises:
        AttentionArgumentError: naming the argument, what is wrong and the value that was given.
    """
    _check_tensors(batch, out)
    _check_element_types(batch, out)
    q, k_cache, v_cache, block_table, query_start_loc, seq_lens, table, scale, near_bias = batch
    for name, index in (("block_table", block_table), ("query_start_loc", query_start_loc), ("seq_lens", seq_lens)):
        if index.dtype is not torch.int32:
            raise AttentionArgumentError(name, index.dtype, "must be int32")

    T, H, d = q.shape
    B, block, H_kv, _ = k_cache.shape
    S = seq_lens.shape[0]
    if 0 in (H, d):
        raise AttentionArgumentError("q", tuple(q.shape), "needs at least one head and one dimension")
    if H_kv == 0 or H % H_kv:
        raise AttentionArgumentError("k_cache", H_kv, f"its heads must divide the {H} heads of q")
    if block == 0:
        raise AttentionArgumentError("k_cache", tuple(k_cache.shape), "needs at least one slot a block")
    _check_shape("k_cache", k_cache, (B, block, H_kv, d))
    _check_shape("v_cache", v_cache, (B, block, H_kv, d))
    _check_shape("query_start_loc", query_start_loc, (S + 1,))
    _check_shape("block_table", block_table, (S, block_table.shape[1]))
    if table.shape[0] == 0:
        raise AttentionArgumentError("table", tuple(table.shape), "needs at least one row")
    _check_shape("table", table, (table.shape[0], d))
    if out is not None:
        _check_shape("out", out, (T, H, d))
    if isinstance(scale, bool) or not isinstance(scale, (float, int)) or not math.isfinite(scale):
        raise AttentionArgumentError("scale", repr(scale), "must be a finite number")
    if near_bias is not None:
        _check_near_bias(near_bias, scale, table.shape[0])


def _check_tensors(batch: PagedBatch, out: torch.Tensor | None) -> None:
    # Nothing is known of them yet: a caller without a type checker may have passed anything.
    tensors: tuple[Any, ...] = (*batch[: len(DIMENSIONS) - 1], *(() if out is None else (out,)))
    device = None
    for (name, dimensions), tensor in zip(DIMENSIONS.items(), tensors, strict=False):
        if not isinstance(tensor, torch.Tensor):
            raise AttentionArgumentError(name, type(tensor).__name__, "must be a tensor")
        if tensor.dim() != dimensions:
            raise AttentionArgumentError(name, tuple(tensor.shape), f"must have {dimensions} dimensions")
        device = device or tensor.device
        if tensor.device != device:
            raise AttentionArgumentError(name, tensor.device, f"must be on the device of q, {device}")
        if tensor.requires_grad and torch.is_grad_enabled():
            raise AttentionArgumentError(name, "requires_grad=True", "the op has no gradient; call it under no_grad")


def _check_element_types(batch: PagedBatch, out: torch.Tensor | None) -> None:
    q, table = batch.q, batch.table
    if q.dtype not in ELEMENT_TYPES:
        raise AttentionArgumentError("q", q.dtype, f"must be one of {', '.join(map(str, ELEMENT_TYPES))}")
    for name, tensor in (("k_cache", batch.k_cache), ("v_cache", batch.v_cache), ("out", out)):
        if tensor is not None and tensor.dtype is not q.dtype:
            raise AttentionArgumentError(name, tensor.dtype, f"must have the type of q, {q.dtype}")
    if table.dtype is not torch.float32 and not (table.dtype is q.dtype is torch.float64):
        raise AttentionArgumentError("table", table.dtype, "must be float32")


def _check_near_bias(near_bias: NearBias, scale: float, R: int) -> None:
    slope, length, keys = near_bias
    if isinstance(slope, bool) or not isinstance(slope, (float, int)) or not 0 <= slope < math.inf:
        raise AttentionArgumentError("near_bias", near_bias, "its slope must be a finite number of at least 0")
    for name, value in (("length", length), ("keys", keys)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise AttentionArgumentError("near_bias", near_bias, f"its {name} must be a whole number of at least 1")
    if keys > R:
        raise AttentionArgumentError("near_bias", near_bias, f"its keys must be at most the {R} rows of the table")
    if scale == 0:
        raise AttentionArgumentError("near_bias", near_bias, "has to be None where the scale is 0")


def _check_shape(name: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise AttentionArgumentError(name, tuple(tensor.shape), f"must have shape {shape}")


def check_values(batch: PagedBatch) -> None:
    """Check the values of a batch's index tensors, which live on the host.

    Raises:
        AttentionArgumentError: naming the argument, what is wrong, the sequence and its value.
    """
    T, (num_blocks, block_size), block_table = batch.q.shape[0], batch.k_cache.shape[:2], batch.block_table
    starts, lengths = batch.query_start_loc.tolist(), batch.seq_lens.tolist()
    if starts[0] != 0:
        raise AttentionArgumentError("query_start_loc", starts[0], "must start at 0")
    if starts[-1] > T:
        raise AttentionArgumentError("query_start_loc", starts[-1], f"must not end past the {T} rows of q")
    capacity = block_table.shape[1] * block_size
    for s, length in enumerate(lengths):
        queries = starts[s + 1] - starts[s]
        if queries < 0:
            raise AttentionArgumentError("query_start_loc", starts[s + 1], f"must not fall after sequence {s}")
        if length < 0 or 0 < length < queries:
            raise AttentionArgumentError(
                "seq_lens", length, f"sequence {s} has {queries} queries and cannot have fewer keys"
            )
        if length > capacity:
            raise AttentionArgumentError("seq_lens", length, f"sequence {s} has blocks for {capacity} keys only")
    used = torch.arange(block_table.shape[1]) * block_size < batch.seq_lens[:, None]
    wrong = used & ((block_table < 0) | (block_table >= num_blocks))
    if wrong.any():
        s = int(wrong.any(dim=1).nonzero()[0])
        block = int(block_table[s][wrong[s]][0])
        raise AttentionArgumentError("block_table", block, f"sequence {s} needs blocks of 0..{num_blocks - 1}")
