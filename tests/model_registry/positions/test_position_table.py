"""The position table against an independent float64 implementation and against its own equation."""

import json
import math
from pathlib import Path

import pytest
import torch

from model_registry.positions.wavelet import NEGLIGIBLE, WaveletError, position_table, wavelet_names

GOLDEN = json.loads((Path(__file__).parents[2] / "data/golden/tables.json").read_text())
# Float32 rounding of an entry of at most 1, and what the cut off rows may hold.
TOLERANCE = max(torch.finfo(torch.float32).eps / 2, NEGLIGIBLE)


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["wavelet"])
def test_rows_match_the_golden_vectors(case: dict) -> None:
    table = position_table(case["wavelet"], case["scale_exponents"], case["shifts"])
    expected = torch.tensor(case["p"], dtype=torch.float64)
    rows = torch.stack([table[t].double() if t < len(table) else torch.zeros(table.shape[1]) for t in case["t"]])
    assert table.dtype == torch.float32
    torch.testing.assert_close(rows.double(), expected, rtol=0, atol=TOLERANCE)


def test_golden_vectors_cover_every_closed_form() -> None:
    assert {case["wavelet"] for case in GOLDEN} == set(wavelet_names())


def test_dimension_order_is_scale_major() -> None:
    table = position_table("ricker", [0, 3], [0, 2, 5])
    for i, (exponent, shift) in enumerate((e, b) for e in (0, 3) for b in (0, 2, 5)):
        x = (7 - shift) / 2**exponent
        assert float(table[7, i]) == pytest.approx((1 - x * x) * math.exp(-x * x / 2), abs=1e-7)


@pytest.mark.parametrize(("exponents", "shifts", "rows"), [(range(8), range(16), 769), (range(2, 10), range(16), 3030)])
def test_the_table_ends_where_the_wavelets_have_decayed(exponents: range, shifts: range, rows: int) -> None:
    table = position_table("ricker", list(exponents), list(shifts))
    assert table.shape == (rows, 128)
    assert table[-1].abs().max() >= NEGLIGIBLE


def test_max_distance_bounds_the_rows_and_changes_no_kept_row() -> None:
    whole = position_table("gaussian", list(range(8)), list(range(8)))
    cut = position_table("gaussian", list(range(8)), list(range(8)), max_distance=110)
    assert cut.shape == (111, 64)
    assert torch.equal(cut, whole[:111])


def test_a_wavelet_without_support_keeps_one_row() -> None:
    assert position_table("haar", [0], [5], max_distance=3).shape == (1, 1)


def test_haar_looks_into_the_past() -> None:
    table = position_table("haar", [2], [0])
    assert table[:, 0].tolist() == [0, 1, 1, -1, -1]


def test_pywavelets_haar_agrees_with_the_closed_form_off_its_edges() -> None:
    sampled, closed = (position_table(name, [2, 3, 4], [1]) for name in ("pywt:haar", "haar"))
    inside = [t for t in range(2, 16) if all((t - 1) % (2**e // 2) for e in (2, 3, 4))]
    assert len(inside) > 3
    assert torch.equal(sampled[inside], closed[inside])


@pytest.mark.parametrize("name", ["pywt:db4", "pywt:sym5", "pywt:coif2", "pywt:dmey", "pywt:bior2.2", "pywt:rbio3.1"])
def test_pywavelets_families_give_a_decaying_table(name: str) -> None:
    table = position_table(name, [0, 2, 4], [0, 3])
    assert table.shape[1] == 6
    assert table.isfinite().all()
    assert table.abs().max() > 0.1


@pytest.mark.parametrize(
    ("wavelet", "exponents", "shifts", "field", "message"),
    [
        ("rickr", [0], [0], "wavelet", "unknown"),
        (3, [0], [0], "wavelet", "string"),
        ("pywt:nothing", [0], [0], "wavelet", "nothing"),
        ("pywt:cmor1.5-1.0", [0], [0], "wavelet", "complex"),
        ("ricker", [], [0], "scale_exponents", "empty"),
        ("ricker", [0], [], "shifts", "empty"),
        ("ricker", [0], [-1], "shifts", "negative"),
        ("ricker", [-2], [0], "scale_exponents", "negative"),
        ("ricker", [0.5], [0], "scale_exponents", "integer"),
        ("ricker", [True], [0], "scale_exponents", "integer"),
        ("ricker", [99], [0], "scale_exponents", "larger"),
        ("ricker", [1, 1], [0], "scale_exponents", "twice"),
        ("ricker", "01", [0], "scale_exponents", "list"),
        ("ricker", [0], None, "shifts", "list"),
    ],
)
def test_a_wrong_parameter_is_named(
    wavelet: object, exponents: object, shifts: object, field: str, message: str
) -> None:
    with pytest.raises(WaveletError, match=message) as caught:
        position_table(wavelet, exponents, shifts)
    assert caught.value.field == field
    assert field in str(caught.value)


def test_a_negative_max_distance_is_refused() -> None:
    with pytest.raises(WaveletError, match="max_distance"):
        position_table("ricker", [0], [0], max_distance=-1)
