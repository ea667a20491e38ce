"""The Triton kernels under Triton's interpreter; `test_triton.py` runs this file, in a process that has it switched on.

The kernels' tiles are small there (32 queries, 32 far and 16 near keys, parts of at least 32 keys), so these lengths
have far tiles, near tiles, ragged tiles and several parts.
"""

from dataclasses import replace

import pytest
import torch
from helpers.paged_case import NAN, paged_case
from helpers.torch_dense import torch_dense

from model_registry.attention import NearBias, wavelet_attention
from model_registry.attention.triton.configuration import configuration
from model_registry.attention.triton.op import count_parts, paged_attention
from model_registry.positions.wavelet import position_table

RAGGED = ([90, 33, 1, 17, 0, 70], [50, 1, 1, 17, 0, 3])
EPS = torch.finfo(torch.float32).eps


def float32_bound(case):
    """A score is a sum of 2 d products of float32: see `test_precision`; the output errs by 2 delta max |v|."""
    magnitude = 0.0
    for s in range(len(case.seq_lens)):
        q, k, _ = (x.double().abs() for x in case.sequence(s))
        if q.numel() and k.numel():
            content = torch.einsum("mhd,nhd->hmn", q, k.repeat_interleave(q.shape[1] // k.shape[1], dim=1))
            position = torch.einsum("mhd,td->hmt", q, case.table.abs().double())
            magnitude = max(magnitude, float(content.amax() + position.amax()) * case.scale)
    delta = EPS * (2 * case.q.shape[2]) ** 0.5 * magnitude
    return (2 * delta + 8 * EPS) * float(case.v_cache.nan_to_num().abs().max())


def exact(case):
    return wavelet_attention(*case.to(torch.float64).arguments(), impl="reference")


def run(case, **options):
    out = torch.full_like(case.q, NAN)
    paged_attention(case.batch(), out, **options)
    return out


def assert_float32_parity(case, **options):
    """Every row must be written, and as near to float64 as float32 can be."""
    assert (run(case, **options) - exact(case)).abs().max() <= float32_bound(case)


@pytest.mark.parametrize("R", [1, 7, 40, 64, 300], ids="R={}".format)
def test_ragged_batches_of_prompts_chunks_tails_and_decodes(R):
    assert_float32_parity(paged_case(*RAGGED, R=R, dtype=torch.float32))


@pytest.mark.parametrize("near_bias", [NearBias(1.3, 10, 64), NearBias(0.5, 50, 1), NearBias(1, 1, 33)])
@pytest.mark.parametrize("R", [64, 100, 300], ids="R={}".format)
def test_near_keys_get_a_bonus(R, near_bias):
    assert_float32_parity(paged_case(*RAGGED, R=R, dtype=torch.float32, near_bias=near_bias))
    assert_float32_parity(paged_case([300, 200], [1, 33], R=R, dtype=torch.float32, near_bias=near_bias))


@pytest.mark.parametrize(
    ("d", "H", "H_kv", "block_size"),
    [
        (32, 5, 1, 16),
        (64, 4, 4, 128),
        (80, 6, 2, 48),
        (96, 2, 2, 16),
        (112, 3, 1, 32),
        (128, 4, 1, 64),
        (192, 2, 1, 16),
        (256, 1, 1, 32),
        (64, 17, 1, 16),
    ],
)
def test_head_sizes_head_groups_and_block_sizes(d, H, H_kv, block_size):
    case = paged_case([77, 50], [35, 1], d=d, H=H, H_kv=H_kv, block_size=block_size, R=20, dtype=torch.float32)
    assert_float32_parity(case)


@pytest.mark.parametrize("n_q", [2, 31, 32, 33, 64, 65])
def test_every_side_of_the_query_tile(n_q):
    assert_float32_parity(paged_case([97], [n_q], H=1, H_kv=1, R=30, dtype=torch.float32))


@pytest.mark.parametrize("R", [15, 16, 17, 95, 96, 97])
def test_tables_that_end_at_either_side_of_a_tile_and_of_the_sequence(R):
    assert_float32_parity(paged_case([96, 96], [40, 1], H=1, H_kv=1, R=R, dtype=torch.float32))


@pytest.mark.parametrize("R", [1, 60, 700])
def test_decode_splits_long_sequences_beside_short_ones(R):
    case = paged_case([1, 300, 0, 31, 129], [1, 1, 1, 1, 1], H=2, H_kv=1, R=R, dtype=torch.float32)
    assert count_parts(5, 1, 300, configuration(32, 4)) > 1
    assert_float32_parity(case, max_query_len=1, max_seq_len=300)


def test_the_hints_change_no_value():
    case = paged_case([200, 90], [1, 1], H=2, H_kv=1, R=50, dtype=torch.float32)
    one_part = run(case, max_query_len=1, max_seq_len=1)
    assert (one_part - run(case)).abs().max() <= float32_bound(case)
    assert_float32_parity(case, max_query_len=1, max_seq_len=1)


def test_exponents_up_to_15_reach_over_the_whole_context():
    table = position_table("ricker", [*range(16)], [*range(4)], max_distance=400)
    assert table.shape[0] > 200
    for queries in (40, 1):
        assert_float32_parity(replace(paged_case([200], [queries], d=64, dtype=torch.float32), table=table))


def test_rows_past_the_table_are_never_read():
    case = paged_case([150, 130], [40, 1], R=20, dtype=torch.float32)
    longer = torch.cat([case.table, torch.full((200, 32), NAN)])
    assert_float32_parity(replace(case, table=longer[:20]))


def test_without_a_table_it_is_attention_without_positions():
    case = paged_case(*RAGGED, R=1, dtype=torch.float32)
    case = replace(case, table=torch.zeros(1, 32))
    assert (run(case, positions=False) - exact(case)).abs().max() <= float32_bound(case)


def test_sequences_that_share_cached_blocks():
    case = paged_case([90, 90], [20, 1], dtype=torch.float32)
    blocks = case.block_table.clone()
    blocks[1, :4] = blocks[0, :4]
    assert_float32_parity(replace(case, block_table=blocks))


def test_a_chunked_prompt_gives_what_the_whole_prompt_gives():
    whole = paged_case([120], [120], H=1, H_kv=1, R=50, dtype=torch.float32)
    expected = exact(whole)
    for first, last in ((0, 50), (50, 119), (119, 120)):
        starts, lengths = (torch.tensor(x, dtype=torch.int32) for x in ([0, last - first], [last]))
        out = run(replace(whole, q=whole.q[first:last], query_start_loc=starts, seq_lens=lengths))
        assert (out - expected[first:last]).abs().max() <= float32_bound(whole)


def test_strides_of_q_caches_block_table_and_out_do_not_matter():
    case = paged_case([83, 50], [40, 1], dtype=torch.float32)
    wide = torch.full((41, 3, 4, 32), NAN)
    wide[:, 1] = case.q
    block_table = torch.stack([case.block_table] * 2, dim=-1)[..., 0]
    dimension_strided = [torch.stack([cache, cache], dim=-1)[..., 0] for cache in (case.k_cache, case.v_cache)]
    for k_cache, v_cache in ((case.k_cache.contiguous(), case.v_cache.contiguous()), dimension_strided):
        strided = replace(case, q=wide[:, 1], k_cache=k_cache, v_cache=v_cache, block_table=block_table)
        out = torch.full((4, 41, 64), NAN)
        view = out.transpose(0, 1)[..., ::2]
        paged_attention(strided.batch(), view)
        assert (view - exact(case)).abs().max() <= float32_bound(case)
        assert out[..., 1::2].isnan().all()


def far_apart(x, dim, stride):
    """``x`` with ``stride`` elements between its entries along ``dim``; what lies between is never touched."""
    strides = [*torch.empty((*x.shape[:dim], 1, *x.shape[dim + 1 :])).stride()]
    strides[dim] = stride
    size = 1 + sum((n - 1) * step for n, step in zip(x.shape, strides, strict=True))
    return torch.empty(size, dtype=x.dtype).as_strided(x.shape, strides).copy_(x)


@pytest.mark.parametrize("dim", [0, 1])
def test_caches_of_more_than_two_to_the_31_elements(dim):
    """Offsets of blocks and of slots need 64 bits; the gigabytes between them are address space only."""
    case = paged_case([128], [1], H=1, H_kv=1, block_size=16 if dim == 0 else 128, dtype=torch.float16)
    stride = 2**31 // (case.k_cache.shape[dim] - 1) + 64
    caches = {name: far_apart(getattr(case, name), dim, stride) for name in ("k_cache", "v_cache")}
    assert torch.equal(run(replace(case, **caches)), run(case))


@pytest.mark.parametrize("queries", [1, 3])
def test_queries_and_outputs_of_more_than_two_to_the_31_elements(queries):
    case = paged_case([40], [queries], H=3, H_kv=1, dtype=torch.float16)
    out = far_apart(torch.zeros_like(case.q), 1, 2**30)
    paged_attention(replace(case, q=far_apart(case.q, 1, 2**30)).batch(), out)
    assert torch.equal(out, run(case))


def test_padding_entries_get_zeros_and_rows_of_no_sequence_are_left_alone():
    case = paged_case([20, 0, 40, 0], [3, 2, 1, 1], dtype=torch.float32)
    longer = replace(case, q=torch.cat([case.q, torch.full_like(case.q[:4], NAN)]))
    out = torch.full_like(longer.q, 7.0)
    paged_attention(longer.batch(), out)
    assert (out[3:5] == 0).all()
    assert (out[6] == 0).all()
    assert (out[7:] == 7).all()
    assert (out[:7] - exact(case)).abs().max() <= float32_bound(case)


def test_the_op_reaches_the_kernels_and_an_empty_batch_is_empty():
    case = paged_case([40], [3], dtype=torch.float32)
    out = wavelet_attention(*case.arguments(), impl="triton")
    assert torch.equal(out, run(case))
    assert wavelet_attention(*paged_case([], [], dtype=torch.float32).arguments(), impl="triton").shape == (0, 4, 32)


def assert_error_is_like_dense(out, case, dense_case):
    """At most twice the error of PyTorch's dense attention in the same element type, in the worst and on average.

    The interpreter, unlike a GPU, truncates to bfloat16: up to eps, eps / 2 on average, in each of weight and output.
    """
    expected = exact(case)
    error = (out.double() - expected).abs()
    dense = torch.cat([torch_dense(dense_case, s) for s in range(len(case.seq_lens))])
    dense_error = (dense.double() - expected).abs()
    truncation = torch.finfo(torch.bfloat16).eps * expected.abs() * (out.dtype is torch.bfloat16)
    assert error.max() <= 2 * dense_error.max() + 2 * truncation.max()
    assert error.square().mean().sqrt() <= 2 * dense_error.square().mean().sqrt() + truncation.square().mean().sqrt()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("wavelet", ["ricker", "haar"])
@pytest.mark.parametrize("near_bias", [None, NearBias(1.5, 20, 40)], ids=["", "bonus"])
def test_the_error_in_16_bits_is_at_most_twice_that_of_dense_attention(dtype, wavelet, near_bias):
    table = position_table(wavelet, [*range(8)], [*range(8)])
    case = replace(paged_case([150, 90, 1], [40, 1, 1], d=64, dtype=dtype, near_bias=near_bias), table=table)
    assert_error_is_like_dense(run(case), case, case)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("k_scale", "v_scale"), [(0.5, 0.25), (0.37, 1.3), (1.0, None)])
def test_an_fp8_cache_is_read_with_its_scales(dtype, k_scale, v_scale):
    case = paged_case([90, 70], [20, 1], d=64, R=30, dtype=dtype)
    caches = [cache.float().to(torch.float8_e4m3fn) for cache in (case.k_cache, case.v_cache)]
    scales = (k_scale, 1.0 if v_scale is None else v_scale)
    true = [cache.double() * scale for cache, scale in zip(caches, scales, strict=True)]
    dense_case = replace(case, k_cache=true[0].to(dtype), v_cache=true[1].to(dtype))
    out = run(
        replace(case, k_cache=caches[0], v_cache=caches[1]),
        k_scale=torch.tensor(k_scale),
        v_scale=None if v_scale is None else torch.tensor(v_scale),
    )
    assert_error_is_like_dense(out, replace(case, k_cache=true[0], v_cache=true[1]), dense_case)
