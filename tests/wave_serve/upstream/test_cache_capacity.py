"""The cap is also what the engine's KV cache can hold of one request, as its metrics tell."""

import httpx
import pytest
from helpers.fake_upstream import FakeUpstream, reply
from helpers.running import running, settings_for

from wave_serve.upstream.cache_capacity import cache_tokens


def exposition(**labels: str) -> str:
    inside = ",".join(f'{name}="{value}"' for name, value in labels.items())
    return (
        "# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig\n"
        "# TYPE vllm:cache_config_info gauge\n"
        f"vllm:cache_config_info{{{inside}}} 1.0\n"
        'vllm:num_requests_running{engine="0"} 0.0\n'
    )


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"block_size": "128", "num_gpu_blocks": "33", "kv_cache_size_tokens": "4224"}, 4096),
        ({"block_size": "128", "num_gpu_blocks": "2", "kv_cache_size_tokens": "200"}, 100),
        ({"block_size": "16", "num_gpu_blocks": "4", "kv_cache_size_tokens": "133"}, 100),  # of 100 / 3 * 4 tokens
        ({"block_size": "128", "num_gpu_blocks": "32", "kv_cache_size_tokens": "None"}, 3968),
        ({"block_size": "16", "num_gpu_blocks": "4", "cache_dtype": 'a \\"b\\",c'}, 48),
        ({"kv_cache_size_tokens": "77"}, 77),
        ({"block_size": "16", "num_gpu_blocks": "None"}, None),
        ({"block_size": "None", "num_gpu_blocks": "9"}, None),
        ({"block_size": "16", "num_gpu_blocks": "inf"}, None),
        ({"engine": "0"}, None),
    ],
)
def test_the_engines_own_figure_goes_before_blocks_and_one_block_is_kept_back(labels: dict, expected: int) -> None:
    assert cache_tokens(exposition(**labels)) == expected


def test_the_smallest_of_several_engines_counts() -> None:
    two = exposition(engine="0", kv_cache_size_tokens="900") + exposition(engine="1", kv_cache_size_tokens="500")
    assert cache_tokens(two) == 500


def test_a_page_without_the_figure_says_nothing() -> None:
    assert cache_tokens("") is None
    assert cache_tokens("<html>") is None


def test_a_request_that_fits_the_model_but_never_the_cache_is_refused_at_once(upstream: FakeUpstream) -> None:
    page = exposition(block_size="16", num_gpu_blocks="20", kv_cache_size_tokens="320")
    upstream.answers["/metrics"] = reply(page.encode(), content_type="text/plain")
    with running(settings_for(upstream)) as one:
        assert one.post({"prompt": [7] * 300, "max_tokens": 4}).status_code == 200
        answer = one.post({"prompt": [7] * 300, "max_tokens": 5})
        assert answer.status_code == 400
        assert answer.json()["error"]["n_ctx"] == 304
        (card,) = httpx.get(f"{one.url}/v1/models").json()["data"]
        assert card["max_model_len"] == 304
        assert card["limits"] == {"max_extrapolation": 8000, "engine": 1000, "kv_cache": 304}
    assert upstream.generations == 1
