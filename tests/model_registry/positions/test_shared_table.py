"""Layers and models that ask for the same table share one tensor."""

import torch

from model_registry.positions.shared_table import shared_position_table
from model_registry.positions.wavelet import position_table

FIRST = {"wavelet": "ricker", "scale_exponents": [0, 1, 2], "shifts": [0, 3], "max_distance": 40}
SECOND = FIRST | {"wavelet": "haar"}


def test_asking_twice_gives_one_tensor_with_the_tables_values():
    table = shared_position_table(**FIRST)
    assert shared_position_table(**FIRST) is table
    assert torch.equal(table, position_table(**FIRST))


def test_a_second_model_does_not_evict_the_first_ones_table():
    table = shared_position_table(**FIRST)
    assert not torch.equal(shared_position_table(**SECOND), table)
    assert shared_position_table(**FIRST) is table


def test_a_shorter_context_gets_a_table_of_its_own():
    assert shared_position_table(**FIRST | {"max_distance": 4}).shape == (5, 6)
    assert len(shared_position_table(**FIRST)) > 5


def test_rows_of_zeros_follow_where_more_are_asked_for():
    table = shared_position_table(**FIRST)
    longer = shared_position_table(**FIRST, least_rows=len(table) + 3)
    assert torch.equal(longer[: len(table)], table)
    assert longer.shape[0] == len(table) + 3
    assert not longer[len(table) :].any()
    assert torch.equal(shared_position_table(**FIRST, least_rows=2), table)
