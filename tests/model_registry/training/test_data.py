"""Corpus split, tokenizer, packing and the order of batches."""

from __future__ import annotations

import pytest
import torch
from helpers.tiny_run import write_corpus
from transformers import AutoTokenizer

from model_registry.training.batches import cut_rows, held_out_batch, pack, training_batch
from model_registry.training.corpus import read_corpus, standard_library
from model_registry.training.errors import TrainingError
from model_registry.training.recipe import Recipe
from model_registry.training.tokenizer import END_OF_TEXT, train_tokenizer

AWKWARD = [
    "",
    " ",
    "\n\n\t  \r\n",
    "def f(x):\n    return  x\n",
    "1234567890 0x1F",
    "naïve Ω 漢字 🐍 e\u0301",
    "\x00\x7f\ufeff",
    "a , b . it 's n't",
    "trailing   ",
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["def f(x):\n    return x + 12\n" * 50], 300)


def test_any_text_round_trips_after_saving(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.is_fast
    for text in AWKWARD:
        assert loaded.decode(loaded(text).input_ids) == text


def test_markers_are_known_and_never_added(tokenizer):
    assert (tokenizer.eos_token, tokenizer.bos_token, tokenizer.eos_token_id) == (END_OF_TEXT, END_OF_TEXT, 0)
    assert tokenizer.pad_token_id == 1
    assert not {0, 1} & set(tokenizer("def f(x): pass").input_ids)


def test_digits_are_single_tokens(tokenizer):
    assert len(tokenizer("9081726354").input_ids) == 10


def test_documents_are_packed_whole_with_a_marker_after_each(tokenizer):
    stream = pack(["return x", "", "def"], tokenizer)
    expected = [*tokenizer("return x").input_ids, 0, 0, *tokenizer("def").input_ids, 0]
    assert stream.tolist() == expected


def test_the_split_is_by_file_seeded_and_disjoint(tmp_path):
    directory = write_corpus(tmp_path / "corpus")
    (directory / "tests").mkdir()
    (directory / "tests" / "test_it.py").write_text("secret\n")
    (directory / "latin.py").write_bytes(b"# \xff\n")
    (directory / "empty.py").write_text("")
    first, again, other = (read_corpus(directory, seed=seed, held_out_fraction=0.3) for seed in (1, 1, 2))
    assert first == again
    assert first.held_out_names != other.held_out_names
    assert first.digest == other.digest
    assert (len(first.train), len(first.held_out)) == (7, 3)
    assert not set(first.train) & set(first.held_out)
    assert "secret\n" not in first.train + first.held_out


def test_other_files_than_python_sources_are_read_where_their_pattern_is_given(tmp_path):
    directory = write_corpus(tmp_path / "corpus")
    for name in ("genesis", "exodus"):
        (directory / "books" / name).mkdir(parents=True)
        (directory / "books" / name / "1.txt").write_text(f"the book of {name}\n")
    (directory / "folder.txt").mkdir()
    corpus = read_corpus(directory, seed=0, held_out_fraction=0.5, pattern="*.txt")
    assert {*corpus.train, *corpus.held_out} == {"the book of genesis\n", "the book of exodus\n"}
    assert corpus.pattern == "*.txt"
    with pytest.raises(TrainingError, match="pattern '/books' is none of files' names"):
        read_corpus(directory, seed=0, held_out_fraction=0.5, pattern="/books")


def test_the_standard_library_is_a_corpus_without_its_tests():
    corpus = read_corpus(standard_library(), seed=0, held_out_fraction=0.5)
    assert len(corpus.train) > 150
    assert not [name for name in corpus.held_out_names if "site-packages" in name or name.startswith("test/")]


def test_an_epoch_reads_every_window_once_in_a_new_order_each_time():
    stream, length, sequences = torch.arange(10 * 7 + 5), 7, 3
    windows = (len(stream) - 1 - length) // length
    steps = windows // sequences
    orders = []
    for epoch in range(2):
        batches = [
            training_batch(stream, length, sequences, seed=5, step=epoch * steps + step) for step in range(steps)
        ]
        assert all(batch.shape == (sequences, length + 1) for batch in batches)
        assert all(torch.equal(batch[:, 1:], batch[:, :-1] + 1) for batch in batches)
        starts = torch.cat([batch[:, 0] for batch in batches]).tolist()
        assert len({(start - starts[0]) // length for start in starts}) == steps * sequences
        orders.append(starts)
    assert orders[0] != orders[1]


def test_cut_rows_hold_the_same_targets_in_the_same_order():
    batch = training_batch(torch.arange(500), 12, 5, seed=3, step=1)
    assert torch.equal(cut_rows(batch, (1,), seed=3, step=1), batch)
    cut = cut_rows(batch, (3,), seed=3, step=1)
    assert cut.shape == (15, 5)
    assert torch.equal(cut[:, :-1].flatten(), batch[:, :-1].flatten())
    assert torch.equal(cut[:, 1:].flatten(), batch[:, 1:].flatten())


def test_every_divisor_has_its_share_of_steps_and_comes_again_with_seed_and_step():
    batch = torch.arange(2 * 13).view(2, 13)
    sizes = [len(cut_rows(batch, (1, 2, 4), seed=9, step=step)) for step in range(300)]
    assert sizes == [len(cut_rows(batch, (1, 2, 4), seed=9, step=step)) for step in range(300)]
    assert all(abs(sizes.count(2 * k) - 100) < 4 * (300 * 2 / 9) ** 0.5 for k in (1, 2, 4))
    assert sizes != [len(cut_rows(batch, (1, 2, 4), seed=8, step=step)) for step in range(300)]


def test_held_out_windows_are_spread_and_do_not_overlap():
    batch = held_out_batch(torch.arange(100), 9, 4)
    assert batch[:, 0].tolist() == [0, 18, 45, 72]
    assert held_out_batch(torch.arange(21), 9, 4)[:, 0].tolist() == [0, 9]


def test_the_learning_rate_warms_up_stays_and_falls_to_zero():
    recipe = Recipe(learning_rate=1.0, warmup_steps=9, decay_fraction=0.4)
    assert [recipe.learning_rate_at(step, 0.0) for step in (0, 4, 9, 50)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert [recipe.learning_rate_at(50, part) for part in (0.6, 0.8, 1.0)] == pytest.approx([1.0, 0.5, 0.0])
    assert Recipe(decay_fraction=0.0).learning_rate_at(500, 1.0) == Recipe().learning_rate
