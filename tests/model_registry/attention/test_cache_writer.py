"""New keys and values in the paged cache: where they belong, nothing else touched, wrong arguments refused by name."""

import re

import pytest
import torch
from helpers.python import run

from model_registry.attention import AttentionArgumentError, CacheWriter

BLOCKS, BLOCK, H_KV, D = 5, 16, 2, 24


def caches(dtype=torch.bfloat16):
    """Views of one head-major cache as vLLM has it, full of sevens."""
    kv = torch.full((BLOCKS, H_KV, BLOCK, 2 * D), 7.0, dtype=dtype)
    return kv.transpose(1, 2)[..., :D], kv.transpose(1, 2)[..., D:]


def rows(count, dtype=torch.bfloat16):
    """Keys and values as a projection leaves them: side by side in one tensor."""
    both = torch.randn(count, 2 * H_KV * D, generator=torch.Generator().manual_seed(count)).to(dtype)
    return both[:, : H_KV * D].view(count, H_KV, D), both[:, H_KV * D :].view(count, H_KV, D)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("count", [0, 1, 9, 79])
def test_rows_go_to_their_slots_and_nowhere_else(count, dtype):
    k_cache, v_cache = caches(dtype)
    key, value = rows(count + 3, dtype)
    slots = torch.randperm(BLOCKS * BLOCK, generator=torch.Generator().manual_seed(3))[:count]
    slots[::4] = -1
    CacheWriter(k_cache, v_cache).write(key, value, slots)
    for cache, given in ((k_cache, key), (v_cache, value)):
        expected = torch.full((BLOCKS * BLOCK, H_KV, D), 7.0, dtype=dtype)
        for slot, row in zip(slots.tolist(), given, strict=False):
            if slot >= 0:
                expected[slot] = row
        assert torch.equal(cache.reshape(-1, H_KV, D), expected)


def test_strides_of_rows_and_caches_do_not_matter_and_may_change_from_call_to_call():
    k_cache = torch.zeros(D, BLOCK, BLOCKS, H_KV).permute(2, 1, 3, 0)
    v_cache = torch.zeros(BLOCKS, BLOCK, H_KV, 2 * D)[..., ::2]
    writer = CacheWriter(k_cache, v_cache)
    key, value = rows(4, torch.float32)
    for slots, transform in (
        (torch.tensor([3, 20, 79, 0]), lambda x: x),
        (
            torch.tensor([9, 9, 1, 9, 2, 9, 4, 9, 5])[::2][1:],
            lambda x: x.permute(2, 0, 1).contiguous().permute(1, 2, 0),
        ),
    ):
        writer.write(transform(key), transform(value), slots)
        assert torch.equal(k_cache.reshape(-1, H_KV, D)[slots], key)
        assert torch.equal(v_cache.reshape(-1, H_KV, D)[slots], value)


def test_a_slot_past_the_end_is_refused_and_nothing_is_written():
    k_cache, v_cache = caches()
    with pytest.raises(AttentionArgumentError, match="slots: the cache has slots up to 79, got 80"):
        CacheWriter(k_cache, v_cache).write(*rows(3), torch.tensor([1, 80, 2]))
    assert (k_cache == 7).all()


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("key", lambda key, value, slots: (key.float(), value, slots)),
        ("value", lambda key, value, slots: (key, value[:, :1], slots)),
        ("value", lambda key, value, slots: (key, value[:2], slots)),
        ("slots", lambda key, value, slots: (key, value, slots.int())),
        ("key", lambda key, value, slots: (key.to("meta"), value, slots)),
    ],
)
def test_wrong_rows_are_refused_by_name(argument, change):
    with pytest.raises(AttentionArgumentError) as caught:
        CacheWriter(*caches()).write(*change(*rows(3), torch.tensor([1, 2, 3])))
    assert caught.value.argument == argument


@pytest.mark.parametrize("wrong", [lambda v: v[:, :8], lambda v: v.float(), lambda v: v.to("meta")])
def test_caches_that_do_not_belong_together_are_refused(wrong):
    k_cache, v_cache = caches()
    with pytest.raises(AttentionArgumentError, match="v_cache: must be as of k_cache"):
        CacheWriter(k_cache, wrong(v_cache))


def test_without_the_native_library_pytorch_writes_the_same(tmp_path):
    program = (
        "import sys; sys.path.insert(0, 'tests/model_registry/attention')\n"
        "import test_cache_writer as t, torch\n"
        "from model_registry.attention import default_implementation\n"
        "t.test_rows_go_to_their_slots_and_nowhere_else(79, torch.bfloat16)\n"
        "t.test_a_slot_past_the_end_is_refused_and_nothing_is_written()\n"
        "print(default_implementation('cpu'))"
    )
    assert re.search("^torch$", run("-c", program, PATH="", CXX="", XDG_CACHE_HOME=str(tmp_path)), re.MULTILINE)
