"""What cannot be divided over vLLM's workers is refused while the model is built, before any request."""

import pytest

from model_registry.vllm_plugin.division import check_heads, check_stages
from model_registry.vllm_plugin.errors import UnsupportedByWaveletAttentionError


@pytest.mark.parametrize(("key_heads", "ranks"), [(1, 1), (4, 1), (4, 2), (4, 4), (2, 4), (1, 7)])
def test_heads_that_ranks_can_share_are_taken(key_heads: int, ranks: int) -> None:
    check_heads(key_heads, ranks)


@pytest.mark.parametrize(("key_heads", "ranks"), [(3, 2), (2, 3), (4, 6)])
def test_heads_that_ranks_would_have_to_cut_are_refused(key_heads: int, ranks: int) -> None:
    with pytest.raises(UnsupportedByWaveletAttentionError, match=f"tensor_parallel_size={ranks}.*heads={key_heads} "):
        check_heads(key_heads, ranks)


def test_stages_on_a_cpu_have_to_be_compiled() -> None:
    check_stages(1, on_cpu=True, compiled=False)
    check_stages(2, on_cpu=True, compiled=True)
    check_stages(2, on_cpu=False, compiled=False)
    with pytest.raises(UnsupportedByWaveletAttentionError, match=r"pipeline_parallel_size=2: .* --enforce-eager"):
        check_stages(2, on_cpu=True, compiled=False)
