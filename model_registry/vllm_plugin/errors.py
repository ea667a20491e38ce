"""What the plugin raises where vLLM asks for something that wavelet attention cannot do."""

from __future__ import annotations


class UnsupportedByWaveletAttentionError(ValueError):
    """vLLM asked for what wavelet attention does not do; ``feature``, ``value`` and ``reason`` say what and why."""

    def __init__(self, feature: str, value: object, reason: str) -> None:
        super().__init__(f"wavelet attention does not support {feature}={value!r}: {reason}")
        self.feature = feature
        self.value = value
        self.reason = reason
