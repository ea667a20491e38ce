"""Intervals, pieces and chunks by themselves, and what listing the commands imports."""

import random
import statistics
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from wave_serve.eval.endpoint import read_address
from wave_serve.eval.errors import TextError
from wave_serve.eval.intervals import bootstrap_difference, bootstrap_mean, wilson
from wave_serve.eval.perplexity.plan import Span, prompts, sample_starts
from wave_serve.eval.settings import Protocol
from wave_serve.eval.texts import chunks, held_out_documents


def test_the_bootstrap_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    """95 % nominal; over 200 draws of 40 normal blocks the share is within 4 standard errors of 0.93 (small sample)."""
    draw = random.Random(5)
    covered = 0
    for trial in range(200):
        blocks = [(10 * draw.gauss(3, 1), 10) for _ in range(40)]
        low, high = bootstrap_mean(blocks, resamples=300, seed=trial)
        covered += low < 3 < high
    assert 0.86 < covered / 200 <= 1


def test_the_bootstrap_interval_narrows_with_more_blocks_and_repeats_with_its_seed() -> None:
    draw = random.Random(1)
    blocks = [(draw.gauss(20, 5), 10) for _ in range(400)]
    few, many = (bootstrap_mean(blocks[:count], resamples=1000, seed=0) for count in (25, 400))
    assert (few[1] - few[0]) / (many[1] - many[0]) == pytest.approx(4, rel=0.4)
    spread = statistics.stdev(value / 10 for value, _ in blocks) / 20
    assert many[1] - many[0] == pytest.approx(2 * 1.96 * spread, rel=0.15)
    assert bootstrap_mean(blocks, resamples=1000, seed=0) == many
    assert bootstrap_mean(blocks[:1], resamples=1000, seed=0) is None


def test_the_interval_of_a_difference_leaves_out_what_both_share() -> None:
    """Texts differ by 5 nats, the two sides of a pair by 0.1 with a spread of 0.02."""
    draw = random.Random(2)
    texts = [(10 * draw.gauss(20, 5), 10) for _ in range(100)]
    pairs = [((value + 10 * draw.gauss(0.1, 0.02), count), (value, count)) for value, count in texts]
    low, high = bootstrap_difference(pairs, resamples=1000, seed=0)
    assert low < 0.1 < high
    assert high - low == pytest.approx(2 * 1.96 * 0.02 / 10, rel=0.3)
    assert bootstrap_difference(pairs[:1], resamples=10, seed=0) is None


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"), [(0, 10, 0, 0.2775), (10, 10, 0.7225, 1), (95, 100, 0.8882, 0.9785)]
)
def test_wilsons_interval(hits: int, trials: int, low: float, high: float) -> None:
    assert wilson(hits, trials) == pytest.approx((low, high), abs=1e-4)


def test_samples_do_not_overlap_and_reach_both_ends() -> None:
    assert sample_starts(99, 100, 4) == []
    assert sample_starts(100, 100, 4) == [0]
    assert sample_starts(250, 100, 4) == [0, 150]
    assert sample_starts(1003, 100, 4) == [0, 301, 602, 903]


def test_pieces_end_where_the_sample_ends() -> None:
    assert prompts(1, 10, 4, Protocol.WHOLE, 3) == [Span(0, 2, 6), Span(0, 6, 10)]
    cut = [Span(0, 1, 4), Span(0, 4, 7), Span(0, 7, 10)]
    assert prompts(1, 10, 9, Protocol.NON_OVERLAPPING, 3) == cut
    # A first part of one token has nothing to predict.
    assert prompts(1, 10, 10, Protocol.NON_OVERLAPPING, 3) == cut
    assert prompts(2, 5, 5, Protocol.NON_OVERLAPPING, 3) == [
        Span(0, 0, 2), Span(0, 2, 5), Span(1, 0, 2), Span(1, 2, 5),
    ]  # fmt: skip


def test_chunks_are_cut_where_a_line_starts_and_lose_nothing() -> None:
    text = "def f():\n    return 1\n\ndef g():\n    return 2\n" * 50
    parts = chunks(text, 100)
    assert "".join(parts) == text
    assert max(map(len, parts)) <= 100
    assert all(part.startswith("def") for part in parts)
    assert chunks("x" * 250, 100) == ["x" * 100, "x" * 100, "x" * 50]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("http://h:1/v1/", ("h:1", "http://h:1")),
        ("a=http://h:1", ("a", "http://h:1")),
        ("http://h:1?q=2", ("h:1?q=2", "http://h:1?q=2")),
    ],
)
def test_addresses(written: str, read: tuple[str, str]) -> None:
    assert read_address(written) == read


def test_the_evaluations_load_no_plotting_before_they_draw_and_no_engine_at_all() -> None:
    program = "import sys, wave_serve.eval.cli\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"matplotlib", "numpy", "torch", "vllm", "transformers", "model_registry"} & set(done.stdout.split())


def test_the_command_list_names_eval_without_importing_it() -> None:
    program = (
        "import sys\nfrom wave_serve.cli import main\nsys.argv = ['wave-serve', '--help']\n"
        "try:\n    main.main()\nexcept SystemExit:\n    print('loaded:', 'wave_serve.eval' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "eval" in done.stdout
    assert done.stdout.rstrip().endswith("loaded: False")


CARD = """# small

Text.

## Held-out files

`bz2.py`, `email/__init__.py`,
`gone_in_this_version.py`

## More

`abc.py`
"""


@pytest.mark.parametrize(("card", "names"), [(CARD, ["bz2.py", "email/__init__.py"]), ("# small\n`abc.py`\n", None)])
def test_the_default_text_is_what_the_bundled_models_card_lists_as_held_out(
    card: str, names: list[str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = tmp_path / "model_registry" / "demo" / "small"
    small.mkdir(parents=True)
    (tmp_path / "model_registry" / "__init__.py").write_text("")
    (small / "config.json").write_text("{}")
    (small / "README.md").write_text(card)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "model_registry", raising=False)
    if names is None:
        with pytest.raises(TextError, match="give --text FILE"):
            held_out_documents()
    else:
        found = held_out_documents()
        assert [document.name for document in found] == names
        assert found[0].text == (Path(sysconfig.get_path("stdlib")) / "bz2.py").read_text()
