"""Prompts in two parts under Triton's interpreter, with PyTorch's attention for the far keys; see `test_triton.py`.

The near kernel's tile there has 32 queries, of 4 heads where a group has as many, and 32 keys.
"""

from dataclasses import replace

import pytest
import torch
from helpers.paged_case import NAN, paged_case
from helpers.plain_attention import plain_attention
from triton_interpreted import assert_error_is_like_dense, exact, float32_bound

from model_registry.attention import NearBias
from model_registry.attention.triton.op import paged_attention
from model_registry.attention.triton.split import NearKeysError, Split, make_split
from model_registry.positions.wavelet import position_table

# Chunks, whole prompts, tails and single queries; a padding entry, and a sequence that asks for nothing.
RAGGED = ([90, 33, 1, 17, 0, 70, 120, 2, 40], [50, 1, 1, 17, 0, 3, 120, 2, 0])


def split_of(case, plain=None):
    group = case.q.shape[1] // case.k_cache.shape[2]
    return make_split(plain or plain_attention(), case.table, case.q.dtype, group, case.near_bias)


@pytest.fixture(autouse=True)
def _no_context_is_short(monkeypatch):
    monkeypatch.setattr("model_registry.attention.triton.split.SHORT_CONTEXT", 1)


def run(case, split=None, **options):
    out = torch.full_like(case.q, NAN)
    paged_attention(case.batch(), out, split=split or split_of(case), **options)
    return out


def assert_parity(case, **options):
    """Every row is written, and as near to float64 as float32 can be.

    Far and near part are merged: both round their output and their log-sum-exp once, of a magnitude like a score's.
    """
    assert (run(case, **options) - exact(case)).abs().max() <= 2 * float32_bound(case)


@pytest.mark.parametrize("R", [1, 16, 40, 64, 300], ids="R={}".format)
def test_ragged_batches_of_prompts_chunks_tails_and_decodes(R):
    assert_parity(paged_case(*RAGGED, R=R, dtype=torch.float32))


@pytest.mark.parametrize(("R", "keys"), [(64, 64), (128, 128), (100, 128), (16, 64)])
def test_near_keys_get_a_bonus_where_they_are_the_near_kernels(R, keys, monkeypatch):
    """In a short context too, where no far keys are left to the other kernel without a bonus."""
    monkeypatch.setattr("model_registry.attention.triton.split.SHORT_CONTEXT", 256)
    case = paged_case(*RAGGED, R=max(R, keys), dtype=torch.float32, near_bias=NearBias(1.3, 10, keys))
    case.table[R:] = 0
    assert split_of(case).table.rows == keys
    assert_parity(case, max_seq_len=120)
    assert_parity(replace(paged_case([300, 97], [70, 97], R=keys, dtype=torch.float32), near_bias=case.near_bias))


def test_other_keys_than_the_near_kernels_cannot_have_a_bonus():
    case = paged_case([300], [70], R=100, dtype=torch.float32, near_bias=NearBias(1.3, 10, 100))
    with pytest.raises(NearKeysError, match="attends to 128 keys, and 100 have a bonus") as raised:
        split_of(case)
    assert (raised.value.keys, raised.value.rows) == (100, 128)


@pytest.mark.parametrize("length", [63, 64, 65])
@pytest.mark.parametrize("queries", [2, 33])
def test_sequences_about_as_long_as_the_table(length, queries):
    """64 rows are whole tiles; a key more, and one query has one far key."""
    case = paged_case([length, 64, 120], [min(queries, length), 64, 2], H=1, H_kv=1, R=64, dtype=torch.float32)
    assert split_of(case).table.rows == 64
    assert_parity(case)


@pytest.mark.parametrize("H", [2, 4])
@pytest.mark.parametrize("queries", [2, 31, 33, 64])
def test_every_side_of_the_query_tile(queries, H):
    assert_parity(paged_case([97, 66], [queries, 2], H=H, H_kv=1, R=30, dtype=torch.float32))


@pytest.mark.parametrize(
    ("d", "H", "H_kv", "block_size"),
    [(32, 5, 1, 16), (64, 4, 4, 128), (80, 8, 2, 48), (112, 3, 1, 32), (128, 8, 1, 64), (256, 1, 1, 32)],
)
def test_head_sizes_head_groups_and_block_sizes(d, H, H_kv, block_size):
    case = paged_case([77, 50], [35, 1], d=d, H=H, H_kv=H_kv, block_size=block_size, R=20, dtype=torch.float32)
    assert_parity(case)


def test_strides_of_q_caches_and_out_do_not_matter():
    case = paged_case([83, 50], [40, 1], R=20, dtype=torch.float32)
    wide = torch.full((41, 3, 4, 32), NAN)
    wide[:, 1] = case.q
    for k_cache in (case.k_cache.contiguous(), torch.stack([case.k_cache] * 2, dim=-1)[..., 0]):
        strided = replace(case, q=wide[:, 1], k_cache=k_cache)
        out = torch.full((4, 41, 64), NAN).transpose(0, 1)[..., ::2]
        paged_attention(strided.batch(), out, split=split_of(case))
        assert (out - exact(case)).abs().max() <= 2 * float32_bound(case)


def test_heads_take_turns_where_the_strips_of_all_would_take_too_much(monkeypatch):
    case = paged_case([83, 50], [40, 3], H=8, H_kv=1, R=20, dtype=torch.float32)
    together = run(case)
    monkeypatch.setattr("model_registry.attention.triton.split.MOST_STRIP_BYTES", 1)
    assert torch.equal(run(case), together)


def test_where_no_sequence_is_longer_than_the_table_nothing_is_asked_for_the_far_keys():
    def refuse(*arguments):
        raise AssertionError(arguments)

    case = paged_case([64, 30], [64, 5], R=64, dtype=torch.float32)
    assert_parity(case, split=split_of(case, refuse), max_seq_len=64)
    assert_parity(paged_case([65, 30], [64, 5], R=64, dtype=torch.float32), max_seq_len=65)


def test_batches_of_single_queries_are_decoded_without_it():
    case = paged_case([90, 33], [1, 1], R=20, dtype=torch.float32)
    assert_parity(case, split=Split(None, None, None), max_query_len=1)


def test_the_far_keys_of_single_queries_and_of_short_sequences_are_none():
    case = paged_case([154, 97, 0, 64, 63, 124], [50, 1, 0, 2, 19, 1], R=64, dtype=torch.float32)
    far = split_of(case).key_rows(case.batch(), 200).far_lens
    assert far.tolist() == [90, 0, 0, 0, 0, 0]
    assert far.dtype is torch.int32


def test_what_a_step_is_given_once_is_used():
    case = paged_case([90, 33], [50, 1], R=32, dtype=torch.float32)
    split = split_of(case)
    of_step = split.key_rows(case.batch(), 90)
    assert torch.equal(run(case, replace(split, of_step=of_step), max_seq_len=90), run(case, split, max_seq_len=90))
    none_far = of_step._replace(far_lens=torch.zeros_like(of_step.far_lens))
    assert not torch.equal(
        run(case, replace(split, of_step=none_far), max_seq_len=90), run(case, split, max_seq_len=90)
    )


def test_in_a_cache_too_large_for_offsets_of_4_bytes_they_have_8(monkeypatch):
    case = paged_case(*RAGGED, R=40, dtype=torch.float32)
    assert split_of(case).key_rows(case.batch(), 120).keys.dtype is torch.int32
    monkeypatch.setattr("model_registry.attention.triton.key_rows.MOST_IN_INT32", 0)
    assert split_of(case).key_rows(case.batch(), 120).keys.dtype is torch.int64
    assert_parity(case)


def test_without_single_queries_nothing_is_decoded(monkeypatch):
    case = paged_case([90, 33], [50, 2], R=32, dtype=torch.float32)
    expected = run(case)
    monkeypatch.setattr("model_registry.attention.triton.op._decode", None)
    assert torch.equal(run(case, single_queries=False), expected)


def test_in_a_short_context_all_keys_are_near(monkeypatch):
    """Longer than the table, but not worth a kernel for the far keys."""

    def refuse(*arguments):
        raise AssertionError(arguments)

    monkeypatch.setattr("model_registry.attention.triton.split.SHORT_CONTEXT", 128)
    case = paged_case([128, 97, 1], [100, 97, 1], H=4, H_kv=1, R=30, dtype=torch.float32)
    assert_parity(case, split=split_of(case, refuse), max_seq_len=128)
    assert_parity(paged_case([129, 97], [100, 97], R=30, dtype=torch.float32), max_seq_len=129)


def test_padding_entries_get_zeros_and_rows_of_no_sequence_are_left_alone():
    case = paged_case([20, 0, 90, 0], [3, 2, 40, 1], R=30, dtype=torch.float32)
    longer = replace(case, q=torch.cat([case.q, torch.full_like(case.q[:4], NAN)]))
    out = torch.full_like(longer.q, 7.0)
    paged_attention(longer.batch(), out, split=split_of(longer))
    assert (out[3:5] == 0).all()
    assert (out[45] == 0).all()
    assert (out[46:] == 7).all()
    assert (out[:46] - exact(case)).abs().max() <= 2 * float32_bound(case)


@pytest.mark.parametrize(
    ("dtype", "wavelet"), [(torch.bfloat16, "ricker"), (torch.float16, "ricker"), (torch.bfloat16, "haar")]
)
def test_the_error_in_16_bits_is_at_most_twice_that_of_dense_attention(dtype, wavelet):
    table = position_table(wavelet, [*range(8)], [*range(8)])
    case = replace(paged_case([700, 90, 1], [20, 30, 1], H=2, H_kv=1, d=64, dtype=dtype), table=table)
    assert_error_is_like_dense(run(case), case, case)


@pytest.mark.parametrize(("k_scale", "v_scale"), [(0.5, 0.25), (0.37, 1.3)])
def test_an_fp8_cache_is_read_with_its_scales(k_scale, v_scale):
    case = paged_case([90, 70, 60], [20, 1, 60], d=64, R=30, dtype=torch.bfloat16)
    caches = [cache.float().to(torch.float8_e4m3fn) for cache in (case.k_cache, case.v_cache)]
    true = [cache.double() * scale for cache, scale in zip(caches, (k_scale, v_scale), strict=True)]
    dense_case = replace(case, k_cache=true[0].to(case.q.dtype), v_cache=true[1].to(case.q.dtype))
    out = run(
        replace(case, k_cache=caches[0], v_cache=caches[1]),
        split_of(case, plain_attention(k_scale, v_scale)),
        k_scale=torch.tensor(k_scale),
        v_scale=torch.tensor(v_scale),
    )
    assert_error_is_like_dense(out, replace(case, k_cache=true[0], v_cache=true[1]), dense_case)


def test_queries_that_a_model_scaled_by_the_log_of_their_context():
    """As `log_n` models do, outside: the term scales with the query, in both parts."""
    case = paged_case([120, 60], [100, 1], R=30, dtype=torch.float32)
    assert_parity(replace(case, q=case.q * torch.linspace(1, 3, 101)[:, None, None]))


def test_a_context_that_is_all_near_has_waves_too():
    ricker = position_table("ricker", [*range(8)], [*range(8)])
    case = replace(paged_case([300, 40, 70], [70, 1, 70], H=4, H_kv=1, d=64, dtype=torch.bfloat16), table=ricker)
    table = split_of(case).table
    assert table.rows > 300 > table.exact_keys
    assert_error_is_like_dense(run(case), case, case)
