"""`wave-serve eval ruler`, and keys at drawn depths, against an endpoint whose tokens are bytes."""

import random
import re
from collections import Counter
from pathlib import Path

import pytest
from helpers.eval_command import Eval, message, result
from helpers.fake_endpoint import FakeEndpoint

from wave_serve.eval.passkey import episode
from wave_serve.eval.ruler.tasks import TASKS, score

SEEDS = range(5)


def examples(task: str, size: int = 60) -> list:
    return [TASKS[task](size, random.Random(seed)) for seed in SEEDS]


@pytest.mark.parametrize("task", ["niah_single_1", "niah_multikey_2", "niah_multikey_3"])
def test_the_value_that_is_asked_for_stands_once_beside_its_name(task: str) -> None:
    for example in examples(task):
        document, question = example.prompt.split("\nQuestion: ")
        asked = re.search(r"code of (\S+)\?", question)[1]
        told = re.findall(rf"^The code of {asked} is (\S+)\.$", document, re.MULTILINE)
        assert tuple(told) == example.expected
        keys = re.findall(r"^The code of (\S+) is", document, re.MULTILINE)
        assert len(keys) == len(set(keys)) == (1 if task == "niah_single_1" else 60)


def test_more_needles_than_names_of_two_words_are_still_different() -> None:
    [example] = [TASKS["niah_multikey_2"](5000, random.Random(1))]
    keys = re.findall(r"^The code of (\S+) is", example.prompt, re.MULTILINE)
    assert len(set(keys)) == 5000


def test_the_variables_asked_for_lead_to_the_value() -> None:
    for example in examples("vt"):
        document, question = example.prompt.split("\nQuestion: ")
        number = re.search(r"have the value (\d+)\?", question)[1]
        values: dict[str, str] = {}
        for name, source in re.findall(r"^VAR (\w+) = (?:VAR )?(\w+)$", document, re.MULTILINE):
            values[name] = values.get(source, source)
        assert tuple(name for name, value in values.items() if value == number) == example.expected
        assert len(example.expected) == 5


@pytest.mark.parametrize("size", [40, 60, 700])
def test_the_words_asked_for_are_the_most_frequent(size: int) -> None:
    for example in examples("fwe", size):
        document = example.prompt.split("\nQuestion: ")[0].removeprefix("Document:\n")
        counts = Counter(document.replace(".", " ").split()).most_common()
        assert tuple(word for word, _ in counts[:3]) == example.expected
        assert counts[0][1] > counts[1][1] > counts[2][1] > counts[3][1]
    for example in examples("cwe", size):
        document = example.prompt.split("\nQuestion: ")[0].removeprefix("Document:\n")
        counts = Counter(document.split())
        rare = max(count for word, count in counts.items() if word not in example.expected)
        assert min(counts[word] for word in example.expected) >= 3 * rare
        assert len(set(example.expected)) == 10


def test_the_score_is_the_share_of_what_is_expected() -> None:
    assert score(" ABCDE, fghij.", ("abcde", "FGHIJ")) == 1
    assert score(" ABCDE", ("abcde", "FGHIJ", "x", "y")) == 0.25


def test_documents_fill_the_length_and_right_answers_count(
    endpoint: FakeEndpoint, wave_eval: Eval, tmp_path: Path
) -> None:
    def answer(path: str, body: dict) -> tuple | None:
        if path != "/v1/completions":
            return None
        text = bytes(body["prompt"]).decode()
        asked = re.search(r"code of (\S+)\?", text)
        found = re.search(rf"The code of {asked[1]} is (\S+)\.\n", text) if asked else None
        return 200, {"choices": [{"text": f" {found[1]}.\nThe" if found else " nothing"}]}

    endpoint.fault = answer
    endpoint.card["max_model_len"] = 5000
    out = tmp_path / "out"
    ran = wave_eval(
        "ruler", "--base-url", f"x={endpoint.url}", "--lengths", "800t,3000t", "--trials", 4,
        "--tasks", "niah_single_1,niah_multikey_3,fwe", "--out", out, plot=True,
    )  # fmt: skip
    assert ran.status == 0, ran.err
    rows = {(row["task"], row["length"]): row for row in result(out, "ruler")["rows"]}
    assert len(rows) == 6
    for (task, length), row in rows.items():
        assert row["score"] == row["accuracy"] == (0 if task == "fwe" else 1)
        assert 0.8 * length < row["prompt_tokens"] < length
    for body in endpoint.completions:
        assert len(body["prompt"]) + body["max_tokens"] <= 3000
    assert (out / "ruler.png").exists()


def test_an_unknown_task_and_a_length_that_is_too_short(
    endpoint: FakeEndpoint, wave_eval: Eval, tmp_path: Path
) -> None:
    asked = ("ruler", "--base-url", f"x={endpoint.url}", "--out", tmp_path / "o")
    assert message(wave_eval(*asked, "--tasks", "qa_1")).startswith("--tasks 'qa_1': choose among niah_single_1, ")
    said = message(wave_eval(*asked, "--lengths", "200t,900t", "--tasks", "niah_single_1,niah_multikey_3"))
    assert said.startswith("length 200 is too short for task niah_multikey_3 on endpoint x")
    assert endpoint.completions == []


def test_drawn_depths_differ_and_are_told_by_tenths(endpoint: FakeEndpoint, wave_eval: Eval, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran = wave_eval(
        "passkey", "--base-url", endpoint.url, "--lengths", "900t", "--trials", 60, "--depths", "uniform", "--out", out
    )
    assert ran.status == 0, ran.err
    [row] = result(out, "passkey")["rows"]
    assert sum(part["trials"] for part in row["by_depth"].values()) == 60
    assert len(row["by_depth"]) >= 8
    places = []
    for number, body in enumerate(endpoint.completions):
        before = bytes(body["prompt"]).decode().split(episode.hidden(episode.draw_key(0, number)))[0]
        places.append(len(before) / 900)
    assert len({round(place, 3) for place in places}) > 50
    counts = Counter(min(9, int(place * 10)) for place in places)
    chi_square = row["depth_chi_square"]
    assert chi_square["degrees_of_freedom"] == 9
    shares = [part["trials"] for part in row["by_depth"].values()]
    assert chi_square["statistic"] == pytest.approx(sum((n - 6) ** 2 / 6 for n in shares) + 6 * (10 - len(shares)))
    assert chi_square["statistic"] < 27.9  # one draw in a thousand is above it
    assert min(counts.values()) >= 1


def test_training_and_evaluation_tell_and_ask_in_the_same_words() -> None:
    kinds = pytest.importorskip("model_registry.training.tasks.kinds")
    pools = pytest.importorskip("model_registry.training.tasks.pools")
    from wave_serve.eval.ruler import words

    assert kinds.OPENING == words.OPENING
    assert (pools.FIRST, pools.SECOND, kinds.COMMON) == (words.FIRST, words.SECOND, words.COMMON)
    assert kinds.told("code", "a-b", "123") == words.told("a-b", "123")
    for (question, answer), prompt in (
        (kinds.one("code", "a-b", "123"), words.asked("a-b") + " 123.\n"),
        (kinds.same_value("42", ["A", "B"]), words.asked_variables("42") + " A, B.\n"),
        (kinds.most_frequent(["x", "y"]), words.asked_frequent() + " x, y.\n"),
        (kinds.most_common(["x", "y"]), words.asked_common(2) + " x, y.\n"),
    ):
        assert question + answer == prompt
    assert kinds.assignments("42", ["A", "B", "C"]) == words.assignments("42", ["A", "B", "C"])
