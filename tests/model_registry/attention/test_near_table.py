"""What stands for a position table in the near kernel, against the table itself in float64."""

import math

import pytest
import torch

from model_registry.attention.triton.configuration import NearTile, near_tile_for_target
from model_registry.attention.triton.near_table import near_table
from model_registry.positions.wavelet import position_table, wavelet_names

TILE = NearTile(64, 64, 64, 4, 2, 2, 4)
HOPPER = near_tile_for_target("cuda", 90, 128, 2)
RICKER = position_table("ricker", [*range(8)], [*range(16)])


def negligible(table, dtype):
    return torch.finfo(dtype).eps / 16 * table.double().norm(dim=1).max()


def rows_of(table, t):
    padded = torch.nn.functional.pad(table.double(), (0, 0, 0, int(t.max()) + 1))
    return torch.where((t >= 0)[:, None], padded[t.clamp(min=0)], 0.0)


@pytest.mark.parametrize(
    ("dtype", "rows", "exact_keys"),
    [(torch.bfloat16, 576, 64), (torch.float16, 640, 64), (torch.float32, 832, 832)],
)
def test_how_much_of_ricker_is_near_and_how_much_of_that_exact(dtype, rows, exact_keys):
    near = near_table(RICKER, dtype, TILE)
    assert (near.rows, near.exact_keys) == (rows, exact_keys)
    assert near.exact.shape[0] == exact_keys + TILE.m
    assert torch.equal(near.exact.double(), rows_of(RICKER, torch.arange(exact_keys + TILE.m)).to(dtype).double())


@pytest.mark.parametrize("wavelet", wavelet_names())
@pytest.mark.parametrize(
    "tile", [TILE, NearTile(128, 32, 64, 8, 2, 2, 1), HOPPER], ids=["64x64", "128x32", "as on Hopper"]
)
def test_what_is_left_out_and_what_waves_replace_is_negligible(wavelet, tile):
    """Coefficients turned by a query's angle, times the curves of the keys, are the rows of the table between them."""
    table = position_table(wavelet, [*range(8)], [*range(16)])
    near = near_table(table, torch.bfloat16, tile)
    assert (
        table[near.rows :].double().norm(dim=1).amax() <= negligible(table, torch.bfloat16)
        if near.rows < len(table)
        else True
    )
    for nth in range((near.rows - near.exact_keys) // tile.n):
        waves = near.waves[32 * nth : 32 * nth + 32].double()
        p = torch.einsum("iw,wd,wj->ijd", near.turn.double(), waves, near.curves.double())
        t0 = near.rows - 1 - nth * tile.n
        after = torch.arange(tile.m) % (tile.m // tile.heads) * tile.heads
        t = t0 + after[:, None] - torch.arange(tile.n)
        error = (p - rows_of(table, t.flatten()).view(*t.shape, -1)).norm(dim=2).max()
        rounding = torch.finfo(torch.bfloat16).eps / 2 * waves.norm()
        assert error <= negligible(table, torch.bfloat16) + rounding


def test_on_hopper_only_the_nearest_tile_of_ricker_is_exact():
    near = near_table(RICKER, torch.bfloat16, HOPPER)
    assert (near.rows, near.exact_keys) == (576, 32)


def test_tables_that_jump_or_swing_between_neighbours_have_no_waves():
    for wavelet in ("haar", "morlet"):
        near = near_table(position_table(wavelet, [*range(8)], [*range(16)]), torch.bfloat16, TILE)
        assert near.exact_keys == near.rows


def test_a_table_of_zeros_is_one_tile_of_zeros():
    near = near_table(torch.zeros(3, 32), torch.float32, TILE)
    assert near.rows == TILE.n
    assert not near.exact.any()
    assert not near.waves.any()


def test_waves_do_not_cancel():
    """Their coefficients are no larger than the rows that they stand for, so that rounding them costs what rounding
    the rows does."""
    near = near_table(RICKER, torch.bfloat16, TILE)
    largest = RICKER[near.exact_keys :].norm(dim=1).max()
    for nth in range((near.rows - near.exact_keys) // TILE.n):
        a, _, b, _ = near.waves[32 * nth : 32 * nth + 32].double().view(4, 8, -1)
        assert math.hypot(a.norm(), b.norm()) <= largest


def test_it_does_not_depend_on_the_default_device_and_type():
    """An engine builds its models with both of its own."""
    expected = near_table(RICKER, torch.bfloat16, TILE)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            found = near_table(RICKER, torch.bfloat16, TILE)
    finally:
        torch.set_default_dtype(torch.float32)
    assert vars(found).keys() == vars(expected).keys()
    for name, value in vars(expected).items():
        assert torch.equal(torch.as_tensor(getattr(found, name)), torch.as_tensor(value)), name
