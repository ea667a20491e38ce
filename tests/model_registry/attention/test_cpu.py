"""The CPU implementations against the reference. In float64 all are exact to rounding, so a wrong key shows."""

from dataclasses import replace

import pytest
import torch
from helpers.paged_case import NAN, paged_case

from model_registry.attention import NearBias, wavelet_attention

EXACT = 1e-13  # float64; outputs are of order 1 and sums have up to 10^4 terms


@pytest.fixture(params=["cpu", "torch"])
def impl(request):
    return request.param


def assert_parity(case, impl):
    """Every row must be written, and equal the reference."""
    expected = wavelet_attention(*case.arguments(), impl="reference")
    out = torch.full_like(expected, NAN)
    assert wavelet_attention(*case.arguments(), out=out, impl=impl) is out
    assert (out - expected).abs().max() < EXACT


@pytest.mark.parametrize("R", [7, 760, 5000])
def test_ragged_prompts_whole_chunked_and_with_a_one_token_tail(R, impl):
    assert_parity(paged_case([1777, 63, 901, 1777, 513], [1777, 63, 901, 512, 1], block_size=128, R=R), impl)


@pytest.mark.parametrize("block_size", [16, 32, 48, 128])
@pytest.mark.parametrize(("H", "H_kv"), [(4, 4), (6, 2), (5, 1)])
@pytest.mark.parametrize("d", [32, 64, 80, 128])
def test_block_sizes_head_groups_and_head_sizes(block_size, H, H_kv, d, impl):
    assert_parity(paged_case([333, 200, 129], [140, 1, 17], H=H, H_kv=H_kv, d=d, block_size=block_size, R=50), impl)


@pytest.mark.parametrize("R", [1, 300, 4096, 9000, 20000])
def test_contexts_of_several_key_segments(R, impl):
    case = paged_case([9001, 8192, 4097, 12289], [150, 1, 9, 130], H=2, H_kv=1, d=16, block_size=128, R=R)
    assert_parity(case, impl)


def test_a_prompt_of_several_key_segments_at_once(impl):
    assert_parity(paged_case([4200], [4200], H=1, H_kv=1, d=4, block_size=64, R=200), impl)


@pytest.mark.parametrize("n_q", [1, 2, 15, 16, 17, 127, 128, 129, 257])
def test_every_side_of_the_tile_limits(n_q, impl):
    assert_parity(paged_case([600], [n_q], R=90), impl)


@pytest.mark.parametrize("R", [15, 16, 17, 111, 112, 113])
def test_tables_that_end_at_either_side_of_a_block_and_of_the_sequence(R, impl):
    assert_parity(paged_case([112], [112], R=R), impl)


@pytest.mark.parametrize("R", [1, 64, 700])
def test_decode_batch_of_very_different_lengths(R, impl):
    lengths = [1, 5000, 2, 640, 17, 16, 641, 15]
    assert_parity(paged_case(lengths, [1] * len(lengths), H=8, H_kv=2, R=R), impl)


@pytest.mark.parametrize("R", [1, 400, 600, 3000])
@pytest.mark.parametrize("block_size", [16, 200, 640])
def test_decode_of_more_keys_than_one_kernel_call_takes(R, block_size, impl):
    lengths = [1300, 40, 513, 512, 3, 1999, 640]
    assert_parity(paged_case(lengths, [1] * len(lengths), H=8, H_kv=8, d=128, block_size=block_size, R=R), impl)


@pytest.mark.parametrize("near_bias", [NearBias(0.5, 100, 50), NearBias(1.5, 20, 1), NearBias(2, 1, 200)])
@pytest.mark.parametrize("R", [200, 700, 3000])
def test_near_keys_get_a_bonus_in_prompts_and_in_decodes_of_several_parts(R, near_bias, impl):
    prompts = paged_case([1777, 63, 901, 4200], [1777, 63, 130, 5], H=6, H_kv=2, R=R, near_bias=near_bias)
    assert_parity(prompts, impl)
    decodes = paged_case([1300, 40, 5000, 3, 513], [1] * 5, H=8, H_kv=2, d=64, R=R, near_bias=near_bias)
    assert_parity(decodes, impl)


def test_the_bonus_may_change_from_call_to_call(impl):
    """What is kept of a table must not be of another bonus."""
    case = paged_case([300], [20], R=90)
    for near_bias in (NearBias(0.5, 10, 50), None, NearBias(0.5, 10, 90), NearBias(3.0, 10, 90), NearBias(3, 100, 90)):
        assert_parity(replace(case, near_bias=near_bias), impl)


def test_decode_between_prompts(impl):
    assert_parity(paged_case([90, 700, 33, 0, 250, 41], [1, 130, 1, 0, 1, 41], R=60), impl)


def test_sequences_without_queries_and_padding_entries_between_others(impl):
    case = paged_case([0, 70, 300, 0, 45], [0, 0, 33, 0, 1])
    assert_parity(case, impl)


def test_queries_of_a_padding_entry_get_zeros(impl):
    case = paged_case([20, 0, 40], [3, 2, 1])
    out = wavelet_attention(*case.arguments(), out=torch.full_like(case.q, NAN), impl=impl)
    assert (out[3:5] == 0).all()
    assert out.isfinite().all()


@pytest.mark.parametrize("impl", ["reference", "cpu", "torch"])
def test_rows_of_no_sequence_are_left_alone_in_out_and_zero_in_a_new_tensor(impl):
    case = paged_case([20, 40], [3, 5])
    q, *rest = case.arguments()
    longer = torch.cat([q, torch.full_like(q[:4], NAN)])
    expected = wavelet_attention(q, *rest, impl=impl)
    new = wavelet_attention(longer, *rest, impl=impl)
    assert torch.equal(new[:8], expected)
    assert (new[8:] == 0).all()
    given = wavelet_attention(longer, *rest, out=torch.full_like(longer, 7.0), impl=impl)
    assert torch.equal(given[:8], expected)
    assert (given[8:] == 7).all()


@pytest.mark.parametrize("impl", ["reference", "cpu", "torch"])
def test_an_empty_batch_gives_an_empty_output(impl):
    case = paged_case([], [])
    assert wavelet_attention(*case.arguments(), impl=impl).shape == (0, 4, 32)


def test_sequences_that_share_cached_blocks_agree_with_private_copies(impl):
    private = paged_case([200, 200], [40, 7], block_size=16)
    k, v, blocks = private.k_cache.clone(), private.v_cache.clone(), private.block_table.clone()
    prefix = blocks[0, :9].long()
    k[blocks[1, :9].long()], v[blocks[1, :9].long()] = k[prefix], v[prefix]
    q, _, _, _, *rest = private.arguments()
    expected = wavelet_attention(q, k, v, blocks, *rest, impl="reference")
    unused = blocks[1, :9].long().clone()
    blocks[1, :9] = blocks[0, :9]
    k[unused], v[unused] = NAN, NAN
    assert (wavelet_attention(q, k, v, blocks, *rest, impl=impl) - expected).abs().max() < EXACT


def test_a_chunked_prompt_gives_what_the_whole_prompt_gives(impl):
    whole = paged_case([700], [700])
    q, k, v, blocks, _, _, *rest = whole.arguments()
    expected = wavelet_attention(*whole.arguments(), impl=impl)
    for first, last in ((0, 256), (256, 512), (512, 699), (699, 700)):
        starts, lengths = (torch.tensor(x, dtype=torch.int32) for x in ([0, last - first], [last]))
        out = wavelet_attention(q[first:last], k, v, blocks, starts, lengths, *rest, impl=impl)
        assert (out - expected[first:last]).abs().max() < EXACT


@pytest.mark.parametrize("impl", ["reference", "cpu", "torch"])
def test_strides_of_q_caches_and_out_do_not_matter(impl):
    case = paged_case([333, 50], [100, 1], d=32)
    expected = wavelet_attention(*case.arguments(), impl=impl)
    q, k, v, *rest = case.arguments()
    wide = torch.full((q.shape[0], 3, *q.shape[1:]), NAN, dtype=q.dtype)
    wide[:, 1] = q
    token_major = [cache.contiguous() for cache in (k, v)]
    dimension_strided = [torch.stack([cache, cache], dim=-1)[..., 0] for cache in (k, v)]
    for k_cache, v_cache in (token_major, dimension_strided):
        out = torch.full((q.shape[1], q.shape[0], 2 * q.shape[2]), NAN, dtype=q.dtype)
        view = out.transpose(0, 1)[..., ::2]
        wavelet_attention(wide[:, 1], k_cache, v_cache, *rest, out=view, impl=impl)
        assert (view - expected).abs().max() < EXACT
        assert out[..., 1::2].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_calls_give_the_same_bits(dtype, impl):
    case = paged_case([1777, 63, 5000], [300, 63, 1], dtype=dtype)
    first = wavelet_attention(*case.arguments(), impl=impl)
    assert torch.equal(first, wavelet_attention(*case.arguments(), impl=impl))


def test_a_prompt_gives_the_same_bits_alone_and_in_a_batch(impl):
    case = paged_case([400, 90, 1500], [40, 90, 200], dtype=torch.float32)
    together = wavelet_attention(*case.arguments(), impl=impl)
    for s in range(3):
        first, last = case.query_start_loc[s : s + 2].tolist()
        alone = wavelet_attention(
            case.q[first:last],
            case.k_cache,
            case.v_cache,
            case.block_table[s : s + 1],
            torch.tensor([0, last - first], dtype=torch.int32),
            case.seq_lens[s : s + 1],
            case.table,
            case.scale,
            impl=impl,
        )
        assert torch.equal(alone, together[first:last])


def test_the_arguments_are_not_written_to(impl):
    case = paged_case([300, 40], [60, 1], dtype=torch.float32)
    before = [x.clone() for x in case.arguments() if isinstance(x, torch.Tensor)]
    wavelet_attention(*case.arguments(), impl=impl)
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(before, case.arguments(), strict=False))
