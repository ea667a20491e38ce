"""Which way prompts go on a GPU: what is chosen, what can be asked for, and what is refused."""

import pytest
import torch
from helpers.plain_attention import flash_attn_varlen_func
from vllm.v1.attention.backends import fa_utils

from model_registry.vllm_plugin import flash
from model_registry.vllm_plugin.errors import UnsupportedByWaveletAttentionError
from model_registry.vllm_plugin.flash import MOST_ROWS, VARIABLE, flash_attention


class Gpu:
    """Stands in for a GPU that is not here."""

    def __init__(self, cuda: bool = True) -> None:
        self.cuda = cuda

    def is_cuda(self) -> bool:
        return self.cuda


@pytest.fixture
def on(monkeypatch):
    """On such a GPU, with a vLLM that has such a version of FlashAttention."""

    def use(gpu: Gpu, version: int | None, asked: str | None = None) -> None:
        monkeypatch.setattr(flash, "current_platform", gpu)
        monkeypatch.setattr(fa_utils, "get_flash_attn_version", lambda head_size: version)
        monkeypatch.setattr(fa_utils, "flash_attn_varlen_func", flash_attn_varlen_func, raising=False)
        if asked is None:
            monkeypatch.delenv(VARIABLE, raising=False)
        else:
            monkeypatch.setenv(VARIABLE, asked)

    return use


def chosen(head_size=128, dtype=torch.bfloat16, cache_dtype=torch.bfloat16, rows=769):
    kernel = flash_attention(head_size, dtype, cache_dtype, rows)
    return None if kernel is None else kernel.version


@pytest.mark.parametrize("asked", [None, "auto"])
def test_two_parts_are_the_default_with_the_version_that_an_engine_has_served_with(on, asked):
    for version, expected in ((2, None), (3, 3), (4, None)):
        on(Gpu(), version, asked)
        assert chosen() == expected


@pytest.mark.parametrize("version", [2, 3, 4])
def test_one_kernel_can_be_asked_for(on, version):
    on(Gpu(), version, "fused")
    assert chosen() is None


@pytest.mark.parametrize("version", [2, 3, 4])
def test_they_can_be_asked_for_wherever_there_is_a_flash_attention(on, version):
    on(Gpu(), version, "split")
    assert chosen() == version


CANNOT = [
    ({"dtype": torch.float32}, "does not take torch.float32"),
    ({"cache_dtype": torch.float8_e4m3fn}, "float8"),
    ({"cache_dtype": torch.float16}, "torch.bfloat16 over a cache of torch.float16"),
    ({"rows": MOST_ROWS + 1}, f"{MOST_ROWS + 1} rows"),
    ({"head_size": 36}, "no FlashAttention"),
]


@pytest.mark.parametrize(("model", "reason"), CANNOT)
def test_what_two_parts_cannot_do_one_kernel_does_unless_they_were_asked_for(on, model, reason):
    on(Gpu(), 3)
    assert chosen(**model) is None
    on(Gpu(), 3, "split")
    with pytest.raises(UnsupportedByWaveletAttentionError, match=reason) as caught:
        chosen(**model)
    assert (caught.value.feature, caught.value.value) == (VARIABLE, "split")


def test_a_device_that_is_not_of_cuda_has_none(on):
    on(Gpu(cuda=False), 3, "split")
    with pytest.raises(UnsupportedByWaveletAttentionError, match="no FlashAttention"):
        chosen()


def test_asking_for_them_without_flash_attention_is_refused(on):
    on(Gpu(), None, "split")
    with pytest.raises(UnsupportedByWaveletAttentionError, match="no FlashAttention"):
        chosen()


def test_another_way_is_refused_by_name(on):
    on(Gpu(), 3, "fast")
    with pytest.raises(UnsupportedByWaveletAttentionError, match="auto, fused or split") as caught:
        chosen()
    assert caught.value.value == "fast"
