"""Retrieval episodes: what they hold, where, and that a run without them is what it was."""

from __future__ import annotations

import re

import numpy
import pytest
import torch
from helpers.tiny_run import losses, tiny_train, write_corpus

from model_registry.training import retrieval_text
from model_registry.training.batches import pack
from model_registry.training.corpus import read_corpus
from model_registry.training.loop import training_rows
from model_registry.training.recipe import Recipe
from model_registry.training.retrieval import SHORTEST, retrieval_row, with_retrieval_rows
from model_registry.training.tokenizer import train_tokenizer

KEY = re.compile(r"# The pass key is ((?:\d ){4}\d)\. Remember it\.\n")
CODE = re.compile(r"# The code of (\w+) is ((?:\d ){2}\d)\.\n")


@pytest.fixture(scope="module")
def corpus_directory(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("data") / "corpus")


@pytest.fixture(scope="module")
def tokenizer(corpus_directory):
    texts = read_corpus(corpus_directory, seed=0, held_out_fraction=0.2).train
    return train_tokenizer(texts, 400)


@pytest.fixture(scope="module")
def stream(corpus_directory, tokenizer):
    return pack(read_corpus(corpus_directory, seed=0, held_out_fraction=0.2).train, tokenizer)


ROW = 401


def episodes(stream, tokenizer, rows=200):
    """Texts of whole episodes; the corpus's own end-of-text tokens are taken out of the filler."""
    plain = stream[stream != tokenizer.eos_token_id]
    for number in range(rows):
        row = retrieval_row(plain, tokenizer, ROW, numpy.random.default_rng(number))
        assert row.shape == (ROW,)
        assert row.dtype == torch.int64
        ends = (row == tokenizer.eos_token_id).nonzero().flatten().tolist()
        for begin, end in zip([0, *(end + 1 for end in ends)], ends, strict=False):
            yield row[begin : end + 1]


def test_every_episode_can_be_answered_from_its_own_text(stream, tokenizer):
    kinds = {"key": 0, "code": 0, "note": 0}
    for ids in episodes(stream, tokenizer):
        text = tokenizer.decode(ids[:-1])
        if retrieval_text.key_question() in text:
            [key] = KEY.findall(text)
            assert text.endswith(retrieval_text.key_question() + retrieval_text.answer(key))
            kinds["key"] += 1
        elif "# What is the code of" in text:
            codes = dict(CODE.findall(text))
            assert 2 <= len(codes) <= 4
            asked = re.search(r"What is the code of (\w+)\?", text)[1]
            assert text.endswith(retrieval_text.entry_question(asked) + retrieval_text.answer(codes[asked]))
            kinds["code"] += 1
        else:
            before, note = text.rsplit(retrieval_text.NOTE_AGAIN, 1)
            assert retrieval_text.NOTE + note + retrieval_text.NOTE_END in before
            kinds["note"] += 1
    share = {kind: count / sum(kinds.values()) for kind, count in kinds.items()}
    assert all(0.2 < part < 0.5 for part in share.values()), share


def test_episodes_reach_from_the_shortest_to_a_whole_row(stream, tokenizer):
    sizes = [len(ids) for ids in episodes(stream, tokenizer)]
    assert SHORTEST <= min(sizes) < 1.5 * SHORTEST
    assert 0.95 * ROW < max(sizes) < ROW


def test_things_are_hidden_at_every_depth(stream, tokenizer):
    depths = [
        KEY.search(text).start() / text.rindex(retrieval_text.key_question())
        for text in (tokenizer.decode(ids) for ids in episodes(stream, tokenizer))
        if KEY.search(text) and len(text) > 300
    ]
    counts, _ = numpy.histogram(depths, bins=4, range=(0, 1))
    assert counts.min() > 0.05 * len(depths)


def test_the_share_of_rows_is_the_fraction_and_repeats_with_seed_and_step(stream, tokenizer):
    batch = torch.full((50, 65), -1)
    drawn = [with_retrieval_rows(batch, stream, tokenizer, 0.2, seed=1, step=step) for step in range(20)]
    replaced = sum(int((rows[:, 0] != -1).sum()) for rows in drawn)
    assert abs(replaced - 200) < 4 * (1000 * 0.2 * 0.8) ** 0.5
    again = with_retrieval_rows(batch, stream, tokenizer, 0.2, seed=1, step=7)
    assert torch.equal(again, drawn[7])
    assert not torch.equal(with_retrieval_rows(batch, stream, tokenizer, 0.2, seed=2, step=7), drawn[7])
    assert (batch == -1).all()


def test_a_fraction_of_0_leaves_the_batch_alone(stream, tokenizer):
    batch = torch.arange(130).view(2, 65)
    assert with_retrieval_rows(batch, stream, tokenizer, 0.0, seed=1, step=0) is batch


def test_cut_rows_hold_episodes_of_their_own_length_or_none_where_none_fits(stream, tokenizer):
    def rows(divisor, step):
        recipe = Recipe(train_length=256, batch_sequences=6, retrieval_fraction=0.5, row_divisors=(divisor,))
        return training_rows(recipe, stream, tokenizer, step)

    question = retrieval_text.key_question()
    for divisor, asked in ((1, True), (2, True), (8, False)):
        texts = [tokenizer.decode(row) for step in range(8) for row in rows(divisor, step)]
        assert any(question in text for text in texts) == asked
        assert all(KEY.search(text.split(question)[0]) for text in texts if question in text)
        assert len(texts) == 48 * divisor


def test_training_and_evaluation_ask_in_the_same_words():
    from wave_serve.eval.passkey.run import episode

    for key in ("4 8 1 5 2", "0 0 0 0 0"):
        assert retrieval_text.hidden_key(key) == episode.hidden(key)
        assert retrieval_text.answer(key) == episode.answer(key)
    assert retrieval_text.key_question() == episode.question()
    key = episode.draw_key(0, 0)
    assert KEY.fullmatch(episode.hidden(key).lstrip("\n"))[1] == key


def test_a_run_with_retrieval_rows_resumes_as_if_uninterrupted(corpus_directory, tmp_path):
    mixed = {"retrieval_fraction": "0.4"}
    tiny_train(tmp_path / "whole", corpus_directory, steps=12, **mixed)
    tiny_train(tmp_path / "cut", corpus_directory, steps=8, decay_fraction="0", **mixed)
    tiny_train(tmp_path / "plain", corpus_directory, steps=12)
    assert losses(tmp_path / "whole")[0] != losses(tmp_path / "plain")[0]
    tiny_train(tmp_path / "cut", corpus_directory, steps=12, resume=True, decay_fraction="0", **mixed)
    tiny_train(tmp_path / "constant", corpus_directory, steps=12, decay_fraction="0", **mixed)
    for resumed, whole in zip(losses(tmp_path / "cut"), losses(tmp_path / "constant"), strict=True):
        assert resumed == pytest.approx(whole, rel=1e-6)
    assert "40.0% of the training rows" in (tmp_path / "whole" / "model" / "README.md").read_text()
    assert "of the training rows" not in (tmp_path / "plain" / "model" / "README.md").read_text()
