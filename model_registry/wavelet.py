"""The public door to the wavelet table: other packages do ``from model_registry.wavelet import position_table``.

The code is in ``model_registry.positions.wavelet``; this module only gives its public names.
"""

from __future__ import annotations

from model_registry.positions.wavelet import (
    NEGLIGIBLE,
    WaveletError,
    position_table,
    validate_wavelet,
    wavelet_names,
)

__all__ = ["NEGLIGIBLE", "WaveletError", "position_table", "validate_wavelet", "wavelet_names"]
