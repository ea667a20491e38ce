"""The attention op's one entry: it checks its arguments, picks an implementation, and calls it."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import NamedTuple, Protocol, cast

import torch

from model_registry.attention.validation import AttentionArgumentError, check_layout, check_values


class Registration(NamedTuple):
    """An implementation: the module with its function ``attention``, and the device types it runs on (all if none)."""

    module: str
    device_types: tuple[str, ...] = ()


_REGISTRY = {
    "reference": Registration("model_registry.attention.reference"),
    "cpu": Registration("model_registry.attention.cpu", ("cpu",)),
}
"""By name; ``impl="auto"`` takes the first that names the device type. Modules are imported on first use."""


class Implementation(Protocol):
    """Writes every row of ``out`` that belongs to a sequence; arguments as in ``wavelet_attention``, checked."""

    def __call__(
        self,
        q: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        block_table: torch.Tensor,
        query_start_loc: torch.Tensor,
        seq_lens: torch.Tensor,
        table: torch.Tensor,
        scale: float,
        out: torch.Tensor,
    ) -> None: ...


def wavelet_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_table: torch.Tensor,
    query_start_loc: torch.Tensor,
    seq_lens: torch.Tensor,
    table: torch.Tensor,
    scale: float,
    *,
    out: torch.Tensor | None = None,
    impl: str = "auto",
) -> torch.Tensor:
    """Causal attention over a paged cache with a relative position term in the score.

    The query at position ``m`` and the key at ``n <= m`` score, with ``t = m - n``,

        e[m, n] = (q_m . k_n + q_m . p(t)) * scale

    and the output is ``softmax_n(e) v``. ``p(t)`` is row ``t`` of ``table``, and zero for ``t >= R``. The queries of
    a sequence are its last ones: query ``j`` of ``n_q`` sits at position ``seq_len - n_q + j``. Cache slots at or
    past ``seq_len`` are never used, whatever they hold. There is no gradient.

    Args:
        q: ``[T, H, d]`` queries of all sequences, packed; float32, bfloat16 or float16 (float64 for checks).
        k_cache: ``[B, block, H_kv, d]`` paged keys of the type of ``q``; any strides; ``H_kv`` divides ``H``.
        v_cache: ``[B, block, H_kv, d]`` paged values, likewise.
        block_table: ``[S, max_blocks]`` int32; block ``i`` of sequence ``s`` holds its keys from ``i * block`` on.
            Entries past the sequence's last block are not read.
        query_start_loc: ``[S + 1]`` int32; rows ``query_start_loc[s]`` to ``query_start_loc[s + 1]`` of ``q`` are
            the queries of sequence ``s``; there may be none.
        seq_lens: ``[S]`` int32; keys visible to the last query of each sequence; 0 for a padding entry, whose
            queries get zeros.
        table: ``[R, d]`` float32, ``R >= 1``.
        scale: usually ``d ** -0.5``.
        out: ``[T, H, d]`` of the type of ``q``, any strides, to write to; rows of no sequence are left as they are.
            By default a new tensor, where such rows are zero.
        impl: ``reference``, ``cpu``, or ``auto``, the implementation for the device of ``q``.

    Returns:
        ``[T, H, d]``: ``out``.

    Raises:
        AttentionArgumentError: an argument is of the wrong type, shape, device or value, or ``impl`` is not
            available. Values of index tensors are checked on the CPU only: elsewhere it would stall the device.
    """
    check_layout(q, k_cache, v_cache, block_table, query_start_loc, seq_lens, table, scale, out)
    attention = _implementation(impl, q.device.type)
    if q.device.type == "cpu":
        B, block_size = k_cache.shape[:2]
        check_values(q.shape[0], B, block_size, block_table, query_start_loc, seq_lens)
    if out is None:
        out = torch.zeros_like(q, memory_format=torch.contiguous_format)
    attention(q, k_cache, v_cache, block_table, query_start_loc, seq_lens, table, scale, out)
    return out


def _implementation(impl: str, device_type: str) -> Implementation:
    if impl == "auto":
        for registration in _REGISTRY.values():
            if device_type in registration.device_types:
                return _load(registration.module)
        raise AttentionArgumentError("impl", "'auto'", f"no implementation is the default on {device_type}")
    if impl not in _REGISTRY:
        raise AttentionArgumentError("impl", repr(impl), f"must be auto or one of {', '.join(_REGISTRY)}")
    module, device_types = _REGISTRY[impl]
    if device_types and device_type not in device_types:
        raise AttentionArgumentError("impl", repr(impl), f"runs on {', '.join(device_types)}, not on {device_type}")
    return _load(module)


@cache
def _load(module: str) -> Implementation:
    return cast("Implementation", import_module(module).attention)
