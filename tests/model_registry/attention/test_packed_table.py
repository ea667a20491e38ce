"""The table's factors: within their tolerance at every distance, and of a rank that falls with it."""

import pytest
import torch

from model_registry.attention.native.constants import RANK_SPAN, TABLE_MARGIN
from model_registry.attention.native.packed_table import packed_table
from model_registry.attention.native.table_factors import factor_table
from model_registry.positions.wavelet import position_table

TABLES = {
    "ricker": position_table("ricker", [*range(8)], [*range(8)]),
    "haar": position_table("haar", [*range(8)], [*range(8)]),
    "long": position_table("gaussian", [*range(16)], [*range(4)], max_distance=40000),
    "full rank": torch.randn(700, 48, generator=torch.Generator().manual_seed(0)),
    "one row": torch.ones(1, 32),
    "zero": torch.zeros(33, 32),
}


@pytest.mark.parametrize("tolerance", [0.0, 2.0**-24, 2.0**-13])
@pytest.mark.parametrize("name", TABLES)
def test_each_row_is_recovered_from_as_many_columns_as_its_span_says(name, tolerance):
    table = TABLES[name].double()
    factors = factor_table(TABLES[name], tolerance)
    assert [span[1] for span in factors.spans] == [table.shape[0], *(span[0] for span in factors.spans[:-1])]
    assert factors.spans[-1][0] == 0
    longest = table.norm(dim=1).max()
    basis = torch.eye(table.shape[1], dtype=torch.float64) if factors.basis is None else factors.basis
    for first, end, rank in factors.spans:
        recovered = factors.coordinates(table[first:end])[:, :rank] @ basis[:, :rank].t()
        assert (recovered - table[first:end]).norm(dim=1).max() <= (tolerance + 1e-14) * longest


def test_far_rows_of_a_wavelet_table_need_few_columns():
    spans = factor_table(TABLES["ricker"], 2.0**-13).spans
    ranks = {first: rank for first, _, rank in spans}
    assert ranks[512] <= 2
    assert ranks[64] <= 10
    assert ranks[0] <= 32


def test_a_table_that_is_not_finite_is_taken_as_it_is():
    assert factor_table(torch.full((40, 8), float("nan")), 1e-4).basis is None


@pytest.mark.parametrize(("dtype", "pack"), [(torch.bfloat16, 2), (torch.float32, 1)])
def test_columns_run_backwards_between_zeros(dtype, pack):
    table = TABLES["full rank"]
    packed = packed_table(table, dtype, pack)
    rows = packed.columns.permute(1, 0, 2).flatten(1)
    assert (rows[:TABLE_MARGIN] == 0).all()
    assert (rows[-TABLE_MARGIN:] == 0).all()
    assert torch.equal(rows[TABLE_MARGIN:-TABLE_MARGIN].flip(0), table.to(rows.dtype))
    assert packed.ranks.tolist() == [48 // pack] * -(-700 // RANK_SPAN)


def test_a_table_is_packed_once_and_again_when_it_changes():
    table = TABLES["ricker"].clone()
    first = packed_table(table, torch.float32, 1)
    assert packed_table(table, torch.float32, 1) is first
    table.mul_(2)
    assert packed_table(table, torch.float32, 1) is not first
