"""``wavelet_attention``, the one entry to attention: it checks the arguments and calls an implementation."""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING

import torch

from model_registry.attention.arguments import AttentionArgumentError, check_layout, check_values
from model_registry.attention.batch import PagedBatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from model_registry.attention.near_bias import NearBias

_DEVICE_TYPES = {
    "reference": (),
    "cpu": ("cpu",),
    "torch": ("cpu",),
    # On the CPU only under Triton's interpreter: without it, it refuses.
    "triton": ("cuda", "xpu", "cpu"),
}
"""The names of ``impl``, and the types of device that each runs on; all if none are listed."""

_logger = logging.getLogger(__name__)


def wavelet_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_table: torch.Tensor,
    query_start_loc: torch.Tensor,
    seq_lens: torch.Tensor,
    table: torch.Tensor,
    scale: float,
    near_bias: NearBias | None = None,
    *,
    out: torch.Tensor | None = None,
    impl: str = "auto",
) -> torch.Tensor:
    """Causal attention over a paged cache with a relative position term in the score.

    The query at position ``m`` and the key at ``n <= m`` score, with ``t = m - n``,

        e[m, n] = (q_m . k_n + q_m . p(t)) * scale + b(m) [t < near_bias.keys]

    and the output is ``softmax_n(e) v``. ``p(t)`` is row ``t`` of ``table``, and zero for ``t >= R``; ``b(m)`` is
    ``near_bias.of(m + 1)``, and zero without ``near_bias``. The queries of
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
        near_bias: see ``NearBias``; the table needs a row for each of its near keys, zeros perhaps.
        out: ``[T, H, d]`` of the type of ``q``, any strides, to write to; rows of no sequence are left as they are.
            By default a new tensor, where such rows are zero.
        impl: ``reference``, ``cpu`` (native), ``torch`` (PyTorch's own kernels on CPU), ``triton`` (GPU), or
            ``auto``, see ``default_implementation``.

    Returns:
        ``[T, H, d]``: ``out``.

    Raises:
        AttentionArgumentError: an argument is of the wrong type, shape, device or value, or ``impl`` is not
            available. Values of index tensors are checked on the CPU only: elsewhere it would stall the device.
        NativeLibraryUnavailableError: ``impl`` is ``cpu``, which is neither prebuilt nor can it be compiled.
    """
    batch = PagedBatch(q, k_cache, v_cache, block_table, query_start_loc, seq_lens, table, scale, near_bias)
    check_layout(batch, out)
    impl = _chosen(impl, q.device.type)
    # The native kernel checks the values itself, in less time than Python takes.
    if q.device.type == "cpu" and impl != "cpu":
        check_values(batch)
    if out is None:
        out = torch.zeros_like(q, memory_format=torch.contiguous_format)
    implementation(impl)(batch, out)
    return out


def _chosen(impl: str, device_type: str) -> str:
    if impl == "auto":
        return default_implementation(device_type)
    if impl not in _DEVICE_TYPES:
        raise AttentionArgumentError("impl", repr(impl), f"must be auto or one of {', '.join(_DEVICE_TYPES)}")
    runs_on = _DEVICE_TYPES[impl]
    if runs_on and device_type not in runs_on:
        raise AttentionArgumentError("impl", repr(impl), f"runs on {', '.join(runs_on)}, not on {device_type}")
    return impl


@cache
def implementation(impl: str) -> Callable[[PagedBatch, torch.Tensor], None]:
    """The function of an implementation; it is imported here, so that only what is used is loaded."""
    match impl:
        case "cpu":
            from model_registry.attention.native.op import attention
        case "torch":
            from model_registry.attention.torch_flash.op import attention
        case "triton":
            from model_registry.attention.triton.op import attention
        case _:
            from model_registry.attention.reference import attention
    return attention


@cache
def default_implementation(device_type: str) -> str:
    """The implementation that ``auto`` takes on a type of device.

    On CPUs it is ``cpu``, the native kernel, if its library is prebuilt or can be compiled, and else ``torch``; one
    warning then gives the reason. On CUDA and XPU devices it is ``triton``.

    Raises:
        AttentionArgumentError: there is none.
    """
    if device_type in ("cuda", "xpu"):
        return "triton"
    if device_type != "cpu":
        raise AttentionArgumentError("impl", "'auto'", f"no implementation is the default on {device_type}")
    from model_registry.attention.native.op import unavailable

    reason = unavailable()
    if reason is None:
        return "cpu"
    _logger.warning("Attention runs on impl=%r; impl=%r is not available: %s", "torch", "cpu", reason)
    return "torch"
