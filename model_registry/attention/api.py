"""The attention op's one entry: it checks its arguments, picks an implementation, and calls it."""

from __future__ import annotations

import logging
from functools import cache
from importlib import import_module
from typing import NamedTuple, Protocol, cast

import torch

from model_registry.attention.arguments import AttentionArgumentError, check_layout, check_values


class Registration(NamedTuple):
    """An implementation.

    Attributes:
        module: has the function ``attention``, and may have ``unavailable``, see ``default_implementation``.
        device_types: what it runs on; all if none.
        checks_values: it refuses wrong values of index tensors itself.
    """

    module: str
    device_types: tuple[str, ...] = ()
    checks_values: bool = False


_REGISTRY = {
    "reference": Registration("model_registry.attention.reference"),
    "cpu": Registration("model_registry.attention.native.op", ("cpu",), checks_values=True),
    "torch": Registration("model_registry.attention.torch_flash.op", ("cpu",)),
    # On the CPU for Triton's interpreter only: elsewhere it refuses.
    "triton": Registration("model_registry.attention.triton.op", ("cuda", "xpu", "cpu")),
}
"""By name; ``impl="auto"`` takes the first that names the device type and is available there, see
``default_implementation``. Modules are imported on first use."""

_logger = logging.getLogger(__name__)


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
        impl: ``reference``, ``cpu`` (native), ``torch`` (PyTorch's own kernels on CPU), ``triton`` (GPU), or
            ``auto``, see ``default_implementation``.

    Returns:
        ``[T, H, d]``: ``out``.

    Raises:
        AttentionArgumentError: an argument is of the wrong type, shape, device or value, or ``impl`` is not
            available. Values of index tensors are checked on the CPU only: elsewhere it would stall the device.
        NativeLibraryUnavailableError: ``impl`` is ``cpu``, which is neither prebuilt nor can it be compiled.
    """
    check_layout(q, k_cache, v_cache, block_table, query_start_loc, seq_lens, table, scale, out)
    registration = _registration(impl, q.device.type)
    if q.device.type == "cpu" and not registration.checks_values:
        B, block_size = k_cache.shape[:2]
        check_values(q.shape[0], B, block_size, block_table, query_start_loc, seq_lens)
    if out is None:
        out = torch.zeros_like(q, memory_format=torch.contiguous_format)
    _load(registration.module)(q, k_cache, v_cache, block_table, query_start_loc, seq_lens, table, scale, out)
    return out


def _registration(impl: str, device_type: str) -> Registration:
    if impl == "auto":
        impl = default_implementation(device_type)
    if impl not in _REGISTRY:
        raise AttentionArgumentError("impl", repr(impl), f"must be auto or one of {', '.join(_REGISTRY)}")
    registration = _REGISTRY[impl]
    if registration.device_types and device_type not in registration.device_types:
        runs_on = ", ".join(registration.device_types)
        raise AttentionArgumentError("impl", repr(impl), f"runs on {runs_on}, not on {device_type}")
    return registration


@cache
def default_implementation(device_type: str) -> str:
    """The implementation that ``auto`` takes on a device type.

    It is the first that is available; one that is passed over is named in a warning, once, with the reason: the
    native kernel of the CPU needs a library that is prebuilt or a C++ compiler to build it.

    Raises:
        AttentionArgumentError: there is none.
    """
    passed_over: list[tuple[str, str]] = []
    for name, registration in _REGISTRY.items():
        if device_type not in registration.device_types:
            continue
        unavailable = getattr(import_module(registration.module), "unavailable", None)
        reason = unavailable() if unavailable else None
        if reason is None:
            for other, why in passed_over:
                _logger.warning("Attention runs on impl=%r; impl=%r is not available: %s", name, other, why)
            return name
        passed_over.append((name, reason))
    raise AttentionArgumentError("impl", "'auto'", f"no implementation is the default on {device_type}")


@cache
def _load(module: str) -> Implementation:
    return cast("Implementation", import_module(module).attention)
