"""Wavelet relative positions: the table ``p(t)`` of Oka et al. (ICLR 2025, arXiv 2502.02004), eq. 10-14.

For the relative position ``t = m - n >= 0`` of query ``m`` and key ``n``, dimension ``i`` of the table is

    p(t)_i = psi((t - b_i) / a_i)        (eq. 11, without 1/sqrt(a): all amplitudes are equal)

with ``(a, b)`` drawn from ``{2^e : e in scale_exponents} x {shifts}`` (eq. 13) and
``i = scale_index * len(shifts) + shift_index``. The table depends on ``t`` alone, so one table serves all heads,
layers and requests. Every wavelet here decays, so the table stops at ``R`` rows: beyond them its absolute values
are below ``NEGLIGIBLE`` and the attention score is the plain ``q . k``.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Function = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

NEGLIGIBLE = 1e-6
"""Rows whose largest absolute value is below this are cut off the end of the table."""

MAX_SCALE_EXPONENT = 24
"""Largest exponent: its scale of 16 million tokens is longer than any context that is served."""


class WaveletError(ValueError):
    """A wavelet parameter that cannot give a table; ``field`` and ``value`` say which one."""

    def __init__(self, field: str, value: object, reason: str) -> None:
        super().__init__(f"{field}={value!r}: {reason}")
        self.field = field
        self.value = value
        self.reason = reason


def _ricker(x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return (1 - x * x) * torch.exp(-x * x / 2)


def _gaussian(x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return torch.exp(-x * x)


def _morlet(x: torch.Tensor, t_minus_b: torch.Tensor) -> torch.Tensor:
    # The cosine's frequency is not scaled by a.
    return torch.exp(-x * x) * torch.cos(t_minus_b)


def _haar(x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    one = torch.ones_like(x)
    return torch.where((x > 0) & (x <= 0.5), one, torch.where((x > 0.5) & (x <= 1), -one, torch.zeros_like(x)))


# psi(x, t - b), and the |x| beyond which |psi| < NEGLIGIBLE.
_WAVELETS: dict[str, tuple[Function, float]] = {
    "ricker": (_ricker, 6.1),
    "gaussian": (_gaussian, 3.8),
    "morlet": (_morlet, 3.8),
    "haar": (_haar, 1.0),
}

_PYWT_PREFIX = "pywt:"
_PYWT_LEVEL = 10


def wavelet_names() -> tuple[str, ...]:
    """Names with a closed form; ``pywt:<family>`` names are admitted besides."""
    return tuple(_WAVELETS)


def validate_wavelet(wavelet: object, scale_exponents: object, shifts: object) -> None:
    """Check the three parameters of the table.

    Raises:
        WaveletError: naming the field, the value and the reason.
    """
    if not isinstance(wavelet, str):
        raise WaveletError("wavelet", wavelet, "must be a string")
    if wavelet.startswith(_PYWT_PREFIX):
        _pywt_function(wavelet)
    elif wavelet not in _WAVELETS:
        raise WaveletError("wavelet", wavelet, f"unknown; choose one of {', '.join(_WAVELETS)}, or pywt:<name>")
    _validate_integers("scale_exponents", scale_exponents, MAX_SCALE_EXPONENT)
    _validate_integers("shifts", shifts, 2**MAX_SCALE_EXPONENT)


def _validate_integers(field: str, values: object, largest: int) -> None:
    if not isinstance(values, list | tuple):
        raise WaveletError(field, values, "must be a list of integers")
    if not values:
        raise WaveletError(field, values, "must not be empty")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int):
            raise WaveletError(field, values, f"{value!r} is not an integer")
        if value < 0:
            raise WaveletError(field, values, f"{value} is negative")
        if value > largest:
            raise WaveletError(field, values, f"{value} is larger than {largest}")
    if len(set(values)) != len(values):
        raise WaveletError(field, values, "has an entry twice: two dimensions of the table would be the same")


@lru_cache(maxsize=8)
def _pywt_function(wavelet: str) -> tuple[Function, float]:
    """The mother wavelet of a PyWavelets family, sampled on a grid of 2**-10 and interpolated linearly."""
    name = wavelet.removeprefix(_PYWT_PREFIX)
    try:
        import pywt
    except ImportError as error:
        raise WaveletError("wavelet", wavelet, "needs PyWavelets: pip install PyWavelets") from error
    try:
        sampled = pywt.DiscreteContinuousWavelet(name).wavefun(level=_PYWT_LEVEL)
    except ValueError as error:
        raise WaveletError("wavelet", wavelet, f"PyWavelets does not know it: {error}") from error
    # (psi, x) for a continuous family, (phi, psi, x) for an orthogonal, (phi_d, psi_d, ...) for a biorthogonal one.
    psi, x = (sampled[0] if len(sampled) == 2 else sampled[1]), sampled[-1]
    if numpy.iscomplexobj(psi):
        raise WaveletError("wavelet", wavelet, "is complex; a real wavelet is needed")

    def function(at: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(numpy.interp(at.numpy(), x, psi, left=0.0, right=0.0))

    return function, float(abs(x).max())


def position_table(
    wavelet: str,
    scale_exponents: Sequence[int],
    shifts: Sequence[int],
    *,
    max_distance: int | None = None,
) -> torch.Tensor:
    """Rows ``p(0) .. p(R - 1)`` of the relative position table (eq. 11 and 13), computed in float64.

    ``R`` is the least count beyond which every entry is below ``NEGLIGIBLE`` in absolute value; the caller treats
    rows from ``R`` on as zero. Wavelets, with ``x = (t - b) / a``: ricker ``(1 - x^2) exp(-x^2 / 2)``; gaussian
    ``exp(-x^2)``; morlet ``exp(-x^2) cos(t - b)``; haar ``+1`` on ``(0, 1/2]``, ``-1`` on ``(1/2, 1]``, else 0.
    The paper's eq. 15 and its footnote 8 leave haar's sign convention of ``t`` ambiguous: this is our reading, with
    the support mirrored into the past. ``pywt:<name>`` samples ``<name>`` with PyWavelets (paper, appendix A.14).

    Args:
        wavelet: one of ``wavelet_names()``, or ``pywt:<name>``.
        scale_exponents: exponents ``e``; the scales are ``a = 2**e``.
        shifts: the shifts ``b``, in tokens.
        max_distance: the largest ``t`` that will be asked for: the table has at most ``max_distance + 1`` rows.

    Returns:
        ``[R, d]`` float32 on the CPU with ``d = len(scale_exponents) * len(shifts)`` and ``R >= 1``.

    Raises:
        WaveletError: a parameter is of the wrong type or out of range.
    """
    validate_wavelet(wavelet, scale_exponents, shifts)
    if max_distance is not None and max_distance < 0:
        raise WaveletError("max_distance", max_distance, "must not be negative")

    function, half_width = _pywt_function(wavelet) if wavelet.startswith(_PYWT_PREFIX) else _WAVELETS[wavelet]
    rows = max(shifts) + math.ceil(half_width * 2 ** max(scale_exponents)) + 1
    if max_distance is not None:
        rows = min(rows, max_distance + 1)

    # On the CPU whatever the caller's default device: float64 is exact there and PyWavelets needs it.
    float64: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}
    a = torch.tensor([2.0**e for e in scale_exponents for _ in shifts], **float64)
    b = torch.tensor([float(s) for _ in scale_exponents for s in shifts], **float64)
    t_minus_b = torch.arange(rows, **float64)[:, None] - b
    table = function(t_minus_b / a, t_minus_b)

    kept = (table.abs().amax(dim=1) >= NEGLIGIBLE).nonzero()
    last = int(kept[-1]) if kept.numel() else 0
    return table[: last + 1].to(torch.float32)
