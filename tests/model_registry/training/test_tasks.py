"""Generated tasks: every answer follows from its document, and answers alone count."""

from __future__ import annotations

import random
import re
from collections import Counter

import numpy
import pytest
from helpers.tiny_run import write_corpus

from model_registry.training.corpus import read_corpus
from model_registry.training.tasks import kinds, pools
from model_registry.training.tasks.rows import KINDS, SHORTEST, TaskRows
from model_registry.training.tokenizer import train_tokenizer

ROW = 513


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return read_corpus(write_corpus(tmp_path_factory.mktemp("d") / "c"), seed=0, held_out_fraction=0.2).train


@pytest.fixture(scope="module")
def tokenizer(texts):
    return train_tokenizer([*texts, kinds.sentences(random.Random(0), 300)], 700).backend_tokenizer


@pytest.fixture(scope="module")
def rows(texts, tokenizer):
    stream = numpy.array([i for text in texts for i in (*tokenizer.encode(text).ids, 0)], dtype=numpy.uint16)
    return TaskRows(tokenizer, [stream], 0)


@pytest.fixture(scope="module")
def sharp(texts, tokenizer):
    stream = numpy.array([i for text in texts for i in (*tokenizer.encode(text).ids, 0)], dtype=numpy.uint16)
    return TaskRows(tokenizer, [stream], 0, sharp=True)


def asked(document: str):
    """Question and answer of each part after the document's own text."""
    return re.findall(r"\nQuestion: (.*)\nAnswer: (.*)\n<\|endoftext\|>", document)


def parts(rows, tokenizer, kind, count=30, size=400):
    for seed in range(count):
        ids, weights = rows.document(size, random.Random(seed), kind)
        assert len(ids) == len(weights)
        text = tokenizer.decode(ids, skip_special_tokens=False)
        counted = [token for token, weight in zip(ids, weights, strict=True) if weight]
        yield text, text.split("\nQuestion: ")[0], tokenizer.decode(counted, skip_special_tokens=False)


@pytest.mark.parametrize("maker", ["rows", "sharp"])
@pytest.mark.parametrize("kind", ["look_up", "needles"])
def test_a_value_is_asked_for_that_one_line_tells(request, maker, tokenizer, kind):
    for text, body, _ in parts(request.getfixturevalue(maker), tokenizer, kind):
        for question, answer in asked(text):
            assert answer.removesuffix(".") in body
            thing, of = re.fullmatch(r"What is the (\w+) of (\S+)\?", question).groups()
            assert len(re.findall(rf"The {thing} of {of} is ", body)) == 1


def test_names_of_a_sharp_document_share_their_words(rows, sharp, tokenizer):
    def share_of_alike(maker) -> float:
        """Of documents with 6 names of two words or more: those whose names use few words."""
        bodies = [body for _, body, _ in parts(maker, tokenizer, "needles")]
        documents = [re.findall(r" of ([a-z]+)-([a-z]+) is ", body) for body in bodies]
        documents = [names for names in documents if len(names) >= 6]
        alike = [names for names in documents if len({word for name in names for word in name}) < 1.4 * len(names)]
        return len(alike) / len(documents)

    assert share_of_alike(sharp) > 0.25
    assert share_of_alike(rows) == 0


def test_kinds_come_in_the_shares_that_are_asked_for(texts, tokenizer):
    stream = numpy.array(tokenizer.encode(texts[0]).ids, dtype=numpy.uint16)
    maker = TaskRows(tokenizer, [stream], 0, shares=[kind in ("chain", "common") for kind in KINDS])
    asked_of = [question for text, _, _ in parts(maker, tokenizer, None) for question, _ in asked(text)]
    chains = [question for question in asked_of if re.fullmatch(r"Which variables have the value \d+\?", question)]
    commons = [question for question in asked_of if re.fullmatch(r"Which \d+ words are the most common\?", question)]
    assert len(chains) > 5
    assert len(commons) > 5
    assert len(chains) + len(commons) == len(asked_of)


def test_values_of_a_pool_have_its_digits_and_half_of_them_its_beginning():
    draw = random.Random(1)
    pool = pools.Pool(digits="37", beginning="93", lengths=(4, 7))
    values = [pool.value(draw) for _ in range(200)]
    assert {len(value) for value in values} == {4, 5, 6, 7}
    assert 60 < sum(value.startswith("93") for value in values) < 140
    assert all(set(value[2:]) <= set("37") and value[0] != "0" for value in values)


def test_all_values_of_a_name_are_listed_in_their_order(rows, tokenizer):
    for text, body, _ in parts(rows, tokenizer, "several_values"):
        [(question, answer)] = asked(text)
        thing, of = re.fullmatch(r"List every (\w+) of (\S+)\.", question).groups()
        told = re.findall(rf"The {thing} of {of} is (\d+)\.\n", body)
        assert answer == f"Every {thing} of {of}: {', '.join(told)}."
        assert len(told) >= 2


def test_variables_of_a_chain_have_its_value(rows, tokenizer):
    for text, body, _ in parts(rows, tokenizer, "chain"):
        values: dict[str, str] = {}
        for name, source in re.findall(r"VAR (\w+) = (?:VAR )?(\w+)\n", body):
            values[name] = values.get(source, source)
        for question, answer in asked(text):
            number = re.search(r"the value (\d+)\?", question)[1]
            names = [name for name, value in values.items() if value == number]
            assert answer == f"The variables with the value {number}: {', '.join(names)}."


@pytest.mark.parametrize("kind", ["frequent", "common"])
def test_the_words_asked_for_are_the_most_frequent(rows, tokenizer, kind):
    for text, body, _ in parts(rows, tokenizer, kind):
        [(_, answer)] = asked(text)
        named = answer.partition(": ")[2].removesuffix(".").split(", ")
        counts = Counter(body.removeprefix(kinds.OPENING).replace(". . .", " ").split())
        assert {word for word, _ in counts.most_common(len(named))} == set(named)


def test_definitions_are_quoted_from_the_document(rows, tokenizer):
    found = 0
    for text, body, _ in parts(rows, tokenizer, "definitions"):
        for question, answer in asked(text):
            assert answer in body
            assert re.search(r"(\w+) (?:defined|set to)\?", question)[1] in answer
            found += 1
    assert found > 30


@pytest.mark.parametrize("kind", KINDS)
def test_answers_and_their_ends_alone_count(rows, tokenizer, kind):
    for text, _, counted in parts(rows, tokenizer, kind, count=8):
        if kind == "pass_key":
            [key] = re.findall(r"The pass key is ((?:\d ){4}\d)\. R", text)
            assert counted == f" {key}\n<|endoftext|>"
        else:
            assert counted == "".join(f" {answer}\n<|endoftext|>" for _, answer in asked(text))


def test_rows_are_full_and_hold_whole_documents_but_for_the_last(rows):
    lengths = []
    for seed in range(60):
        row = rows.row(ROW, random.Random(seed))
        assert len(row.ids) == len(row.weights) == len(row.documents) == ROW
        counts = Counter(row.documents)
        assert sorted(counts) == list(range(len(counts)))
        lengths += [counts[number] for number in range(len(counts) - 1)]
    assert min(lengths) >= SHORTEST // 2
    again = rows.row(ROW, random.Random(7))
    assert again == rows.row(ROW, random.Random(7))
    assert again != rows.row(ROW, random.Random(8))


def test_lines_are_hidden_at_every_depth(rows, tokenizer):
    depths = []
    for text, _, _ in parts(rows, tokenizer, "pass_key", count=150):
        depths.append(text.index("# The pass key is") / text.index("# What is the pass key"))
    counts, _ = numpy.histogram(depths, bins=4, range=(0, 1))
    assert counts.min() > 15
