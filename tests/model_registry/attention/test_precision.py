"""Error against float64, beside that of PyTorch's own dense attention in the same element type."""

from dataclasses import replace

import pytest
import torch
from helpers.paged_case import paged_case
from helpers.torch_dense import torch_dense

from model_registry.attention import NearBias, wavelet_attention
from model_registry.positions.wavelet import position_table

TABLES = {
    "ricker": position_table("ricker", [*range(8)], [*range(8)]),
    "haar": position_table("haar", [*range(8)], [*range(8)]),
    "long": position_table("gaussian", [*range(16)], [*range(4)], max_distance=40000),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [([1777], [300]), ([4500], [130]), ([2000], [1]), ([63], [63])])
@pytest.mark.parametrize("wavelet", TABLES)
@pytest.mark.parametrize("near_bias", [None, NearBias(1.5, 20, 100)], ids=["", "bonus"])
@pytest.mark.parametrize("impl", ["cpu", "torch"])
def test_the_error_is_at_most_twice_that_of_dense_attention(dtype, shape, wavelet, impl, near_bias):
    case = replace(paged_case(*shape, H=4, H_kv=2, d=64, dtype=dtype, near_bias=near_bias), table=TABLES[wavelet])
    exact = wavelet_attention(*case.to(torch.float64).arguments(), impl="reference")
    error = (wavelet_attention(*case.arguments(), impl=impl).double() - exact).abs()
    dense = (torch_dense(case, 0).double() - exact).abs()
    largest, eps = float(case.v_cache.nan_to_num().abs().max()), torch.finfo(torch.float32).eps
    rounding = eps * largest
    if near_bias is not None:
        # Up to 64 products are summed onto the bonus, each rounded at its size; the output errs twice as much.
        bonus = float(near_bias.of(case.seq_lens).max())
        rounding += 2 * 64**0.5 * eps / 2 * bonus * largest
    assert error.max() <= 2 * dense.max() + rounding
    assert error.square().mean().sqrt() <= 2 * dense.square().mean().sqrt() + rounding


@pytest.mark.parametrize("R", [1, 500, 5000])
@pytest.mark.parametrize("impl", ["cpu", "torch"])
def test_the_float32_error_is_of_the_order_of_rounding(R, impl):
    """A score is a sum of 2 d products: |error| <= gamma_2d * sum |q_i| (|k_i| + |p_i|) * scale =: delta.

    Weights then err by a factor of at most exp(2 delta), so the output by 2 delta max |v|; rounding errors are
    independent, hence sqrt(2 d) for 2 d. The sums over keys and the merge add a few eps of max |v|.
    """
    case = paged_case([5000, 300], [200, 1], H=4, H_kv=2, d=64, R=R, dtype=torch.float32)
    exact = wavelet_attention(*case.to(torch.float64).arguments(), impl="reference")
    out = wavelet_attention(*case.arguments(), impl=impl)
    eps = torch.finfo(torch.float32).eps
    magnitude = 0.0
    for s in range(2):
        q, k, _ = (x.double().abs() for x in case.sequence(s))
        q = q.unflatten(1, (2, 2))
        terms = (
            torch.einsum("mkgd,nkd->kgmn", q, k).amax()
            + torch.einsum("mkgd,td->kgmt", q, case.table.abs().double()).amax()
        )
        magnitude = max(magnitude, float(terms) * case.scale)
    delta = eps * (2 * 64) ** 0.5 * magnitude
    largest = float(case.v_cache.nan_to_num().abs().max())
    assert (out - exact).abs().max() <= (2 * delta + 8 * eps) * largest
