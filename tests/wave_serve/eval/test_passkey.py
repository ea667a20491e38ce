"""`wave-serve eval passkey` against an endpoint that remembers a known number of tokens."""

import threading
from pathlib import Path

import pytest
from helpers.eval_command import Eval, message, result
from helpers.fake_endpoint import FakeEndpoint

from wave_serve.eval.passkey.episode import DIGITS, answer, draw_key, hidden, is_exact, question
from wave_serve.eval.passkey.filler import neutral_text


def test_accuracy_is_the_share_of_keys_within_the_memory_of_the_endpoint(
    endpoint: FakeEndpoint, wave_eval: Eval, tmp_path: Path
) -> None:
    """A byte is a token: at 256 the whole prompt is within 400 tokens, at 900 the depths of 75 % and 100 % are."""
    endpoint.retrieves_within = 400
    out = tmp_path / "out"
    ran = wave_eval(
        "passkey", "--base-url", f"x={endpoint.url}", "--lengths", "4,900t", "--trials", 20, "--out", out, plot=True
    )
    assert ran.status == 0, ran.err
    short, long = result(out, "passkey")["rows"]
    assert (short["accuracy"], short["exact"], short["trials"]) == (1, 20, 20)
    assert long["by_depth"] == {
        str(depth): {"exact": exact, "trials": 4} for depth, exact in ((0, 0), (25, 0), (50, 0), (75, 4), (100, 4))
    }
    assert long["accuracy"] == 0.4
    low, high = long["accuracy_interval"]
    assert (low, high) == pytest.approx((0.2188, 0.6134), abs=1e-4)  # Wilson, 8 of 20
    assert "40.0%" in ran.out
    assert (out / "passkey.png").exists()
    assert (out / "passkey.svg").exists()


def test_prompt_and_answer_have_exactly_the_length_and_the_key_its_depth(
    endpoint: FakeEndpoint, wave_eval: Eval, tmp_path: Path
) -> None:
    wave_eval("passkey", "--base-url", endpoint.url, "--lengths", "301t", "--trials", 5, "--out", tmp_path / "out")
    bodies = endpoint.completions
    assert len(bodies) == 5
    for number, body in enumerate(bodies):
        text = bytes(body["prompt"]).decode()
        key = draw_key(0, number)
        assert len(body["prompt"]) + body["max_tokens"] == 301
        assert body["max_tokens"] == len(answer(key))
        assert body["temperature"] == 0
        before, after = text.removesuffix(question()).split(hidden(key))
        room = len(before) + len(after)
        assert len(before) == round(room * number * 25 / 100)


def test_the_same_seed_asks_the_same_and_another_seed_something_else(
    endpoint: FakeEndpoint, wave_eval: Eval, tmp_path: Path
) -> None:
    asked: dict[int, list] = {}
    for run, seed in enumerate((3, 3, 4)):
        endpoint.completions.clear()
        wave_eval(
            "passkey", "--base-url", endpoint.url, "--lengths", "4", "--trials", 6, "--seed", seed,
            "--out", tmp_path / str(run),
        )  # fmt: skip
        asked[run] = [body["prompt"] for body in endpoint.completions]
    assert asked[0] == asked[1]
    assert not any(one in asked[2] for one in asked[0])


@pytest.mark.parametrize("name", ["[fd00::1]:8000", "[/b]", ":b:"])
def test_the_table_has_names_as_they_are(name: str, endpoint: FakeEndpoint, wave_eval: Eval, tmp_path: Path) -> None:
    asked = ("passkey", "--base-url", f"{name}={endpoint.url}", "--lengths", "2", "--trials", 1)
    ran = wave_eval(*asked, "--out", tmp_path / "out")
    assert ran.status == 0, ran.err
    assert name in ran.out


def test_as_many_requests_are_under_way_as_was_asked_for(
    endpoint: FakeEndpoint, wave_eval: Eval, tmp_path: Path
) -> None:
    """101: one more than HTTP clients keep connections by default."""
    together = threading.Barrier(101, timeout=30)

    def fault(path: str, _body: dict) -> None:
        if path == "/v1/completions":
            together.wait()

    endpoint.fault = fault
    asked = ("passkey", "--base-url", endpoint.url, "--lengths", "2", "--out", tmp_path / "out", "--trials", 101)
    assert wave_eval(*asked, "--parallel", 101).status == 0


def test_an_own_text_is_the_filler(endpoint: FakeEndpoint, text: Path, wave_eval: Eval, tmp_path: Path) -> None:
    wave_eval(
        "passkey", "--base-url", endpoint.url, "--lengths", "4", "--trials", 1, "--text", text, "--out", tmp_path / "o"
    )
    prompt = bytes(endpoint.completions[0]["prompt"]).decode()
    filler = prompt.removeprefix(hidden(draw_key(0, 0))).removesuffix(question())
    assert filler in text.read_text()
    assert result(tmp_path / "o", "passkey")["filler"]["bytes"] == 2000


def test_a_length_too_short_for_the_episode(endpoint: FakeEndpoint, wave_eval: Eval, tmp_path: Path) -> None:
    said = message(wave_eval("passkey", "--base-url", f"x={endpoint.url}", "--lengths", "1", "--out", tmp_path / "o"))
    assert said == "length 64 is too short for a passkey on endpoint x: the episode alone has 93 tokens"
    assert endpoint.completions == []


def test_a_key_is_five_digits_apart() -> None:
    keys = {draw_key(0, trial) for trial in range(200)}
    assert len(keys) > 190
    assert all(len(key.split(" ")) == DIGITS and key.replace(" ", "").isdecimal() for key in keys)


@pytest.mark.parametrize(
    ("text", "exact"),
    [(" 4 8 1 5 2", True), (" 4 8 1 5 2\n", True), ("4 8 1 5", False), (" 4 8 1 5 2 0", False), (" 48152", False)],
)
def test_an_answer_is_exact_or_wrong(text: str, exact: bool) -> None:
    assert is_exact(text, "4 8 1 5 2") is exact


def test_the_generated_filler_holds_no_digit_and_no_key() -> None:
    text = neutral_text(50_000, seed=1)
    assert len(text) >= 50_000
    assert not any(character.isdigit() for character in text)
    assert "key" not in text
    assert neutral_text(50_000, seed=1) == text != neutral_text(50_000, seed=2)
