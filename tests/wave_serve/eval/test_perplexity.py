"""The figures of `wave-serve eval perplexity` against the formula that the fake endpoint answers by."""

import json
import math
from pathlib import Path

import pytest
from helpers.eval_command import Eval, result
from helpers.fake_endpoint import FakeEndpoint, loss


def expected_mean(ids: list[int], length: int) -> float:
    """Mean loss of all tokens but the first of each piece; pieces are laid from the end."""
    first = len(ids) % length
    pieces = [ids[start : start + length] for start in range(first, len(ids), length)]
    losses = [loss(piece, position) for piece in pieces for position in range(1, length)]
    return math.fsum(losses) / len(losses)


def test_every_figure_follows_from_the_log_probabilities(
    endpoint: FakeEndpoint, text: Path, wave_eval: Eval, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ran = wave_eval(
        "perplexity", "--base-url", f"here={endpoint.url}/v1", "--text", text, "--out", out,
        "--lengths", "1/4,1,100t,3", "--samples", 1, "--end-tokens", 9, "--block-tokens", 40,
    )  # fmt: skip
    assert ran.status == 0, ran.err
    found = result(out)
    ids = list(text.read_bytes())[:192]
    assert [row["length"] for row in found["rows"]] == [16, 64, 100, 192]
    assert [row["multiple"] for row in found["rows"]] == [0.25, 1, 100 / 64, 3]
    for row in found["rows"]:
        mean = expected_mean(ids, row["length"])
        assert row["nats_per_token"] == pytest.approx(mean, abs=1e-6)
        assert row["perplexity"] == pytest.approx(math.exp(mean), rel=1e-6)
        assert row["bits_per_byte"] == pytest.approx(mean / math.log(2), rel=1e-6)  # a token is a byte
        last = ids[-row["length"] :]
        end = [loss(last, position) for position in range(len(last) - 9, len(last))]
        assert row["end_nats_per_token"] == pytest.approx(math.fsum(end) / 9, abs=1e-6)
        assert row["end_nats_per_token_interval"] is None  # one sample
        low, high = row["nats_per_token_interval"]
        assert low < mean < high
        assert row["perplexity_interval"] == pytest.approx([math.exp(low), math.exp(high)])
        assert row["complete"] is True
    assert [row["tokens"] for row in found["rows"]] == [12 * 15, 3 * 63, 99, 191]
    assert [row["prompts"] for row in found["rows"]] == [12, 3, 1, 1]


def test_lengths_are_compared_on_the_same_text_with_the_training_length(
    endpoint: FakeEndpoint, text: Path, wave_eval: Eval, tmp_path: Path
) -> None:
    """The formula adds 1 millinat per position, so the difference is nearly the same in all text and sure."""
    out = tmp_path / "out"
    asked = ("perplexity", "--base-url", endpoint.url, "--text", text, "--samples", 2, "--out", out)
    wave_eval(*asked, "--lengths", "1/2,1,8", "--block-tokens", 64)
    half, one, eight = result(out)["rows"]
    assert [row["reference_length"] for row in (half, one, eight)] == [64] * 3
    assert one["difference"] is one["difference_interval"] is None
    assert eight["difference"] == pytest.approx(eight["nats_per_token"] - one["nats_per_token"], abs=1e-12)
    assert 0.2 < eight["difference"] < 0.25  # mean position: (511 - 63) / 2
    assert half["difference"] < 0
    low, high = eight["difference_interval"]
    assert low < eight["difference"] < high

    wave_eval(*asked, "--lengths", "2,8", "--block-tokens", 64, "--resume")
    assert [row["reference_length"] for row in result(out)["rows"]] == [128, 128]


def test_only_the_log_probability_of_the_actual_token_is_asked_for(
    endpoint: FakeEndpoint, text: Path, wave_eval: Eval, tmp_path: Path
) -> None:
    wave_eval("perplexity", "--base-url", endpoint.url, "--text", text, "--out", tmp_path / "out", "--lengths", "1")
    assert endpoint.completions
    assert all(body["prompt_logprobs"] == 0 and body["max_tokens"] == 1 for body in endpoint.completions)
    assert not any("logprobs" in body or "echo" in body for body in endpoint.completions)


def test_an_endpoint_that_only_echoes_gives_the_same_figures(
    endpoint: FakeEndpoint, text: Path, wave_eval: Eval, tmp_path: Path
) -> None:
    asked = ("perplexity", "--base-url", f"x={endpoint.url}", "--text", text, "--lengths", "1,2", "--out")
    wave_eval(*asked, tmp_path / "native")
    endpoint.echo_only = True
    wave_eval(*asked, tmp_path / "echo")
    native, echo = result(tmp_path / "native"), result(tmp_path / "echo")
    assert native["rows"] == echo["rows"]
    assert (native["endpoints"][0]["scoring"], echo["endpoints"][0]["scoring"]) == ("prompt_logprobs", "echo")


def test_non_overlapping_cuts_each_length_into_training_lengths_and_asks_each_once(
    endpoint: FakeEndpoint, text: Path, wave_eval: Eval, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ran = wave_eval(
        "perplexity", "--base-url", endpoint.url, "--text", text, "--out", out, "--samples", 1,
        "--lengths", "16t,64t,128t,150t,256t", "--protocol", "non-overlapping",
    )  # fmt: skip
    assert ran.status == 0, ran.err
    rows = {row["length"]: row for row in result(out)["rows"]}
    assert rows[64]["nats_per_token"] == rows[128]["nats_per_token"] == rows[256]["nats_per_token"]
    assert rows[150]["prompts"] == 3  # 22 + 64 + 64
    ids = list(text.read_bytes())[:256]
    pieces = [ids[106:128], ids[128:192], ids[192:]]
    losses = [loss(piece, position) for piece in pieces for position in range(1, len(piece))]
    assert rows[150]["nats_per_token"] == pytest.approx(math.fsum(losses) / len(losses), abs=1e-6)
    assert max(map(len, endpoint.prompts())) == 64
    assert len(endpoint.prompts()) == 16 + 4 + 1


def test_samples_spread_over_the_text_and_count_its_bytes(
    endpoint: FakeEndpoint, wave_eval: Eval, tmp_path: Path
) -> None:
    """Two-byte characters: a sample that starts inside one loses only that part of it."""
    text = tmp_path / "two.txt"
    text.write_text("".join(chr(0xC0 + index * index % 61) for index in range(500)))
    out = tmp_path / "out"
    wave_eval(
        "perplexity", "--base-url", endpoint.url, "--text", text, "--out", out, "--lengths", "127t", "--samples", 3
    )
    [described] = result(out)["endpoints"]
    assert described["sample_starts"] == [0, 436, 873]
    assert described["text_tokens"] == 1000
    assert described["bytes_per_token"] == 126 / 127
    ids = list(text.read_bytes())
    assert endpoint.prompts() == [ids[start : start + 127] for start in (0, 436, 873)]


def test_endpoints_are_compared_in_one_run(text: Path, wave_eval: Eval, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with FakeEndpoint("small") as one, FakeEndpoint("large") as two:
        two.shift = 0.25
        ran = wave_eval(
            "perplexity", "--base-url", f"one={one.url}", "--base-url", f"two={two.url}", "--text", text,
            "--out", out, "--lengths", "1,2",
        )  # fmt: skip
    assert ran.status == 0, ran.err
    rows = result(out)["rows"]
    assert [(row["endpoint"], row["model"], row["length"]) for row in rows] == [
        ("one", "small", 64), ("one", "small", 128), ("two", "large", 64), ("two", "large", 128),
    ]  # fmt: skip
    for first, second in zip(rows[:2], rows[2:], strict=True):
        assert second["nats_per_token"] - first["nats_per_token"] == pytest.approx(0.25, abs=1e-6)


def test_the_result_says_how_it_was_made(
    endpoint: FakeEndpoint, text: Path, wave_eval: Eval, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    out = tmp_path / "out"
    ran = wave_eval(
        "perplexity", "--base-url", f"x={endpoint.url}", "--text", text, "--out", out, "--lengths", "1,2", plot=True
    )
    found = result(out)
    assert found["command"][:3] == ["wave-serve", "eval", "perplexity"]
    assert found["endpoints"][0]["max_model_len"] == 1000
    assert found["endpoints"][0]["train_length"] == 64
    assert found["texts"][0]["bytes"] == 2000
    assert found["error"] is None
    assert "secret-key" not in json.dumps(found)
    assert f"{found['rows'][0]['nats_per_token']:.3f}" in ran.out
    assert f"| x | 64 | 1 | {found['rows'][0]['nats_per_token']:.3f} [" in (out / "perplexity.md").read_text()
    assert (out / "perplexity.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (out / "perplexity.svg").read_text()


def test_several_requests_at_once_give_the_same_figures(
    endpoint: FakeEndpoint, text: Path, wave_eval: Eval, tmp_path: Path
) -> None:
    asked = ("perplexity", "--base-url", f"x={endpoint.url}", "--text", text, "--lengths", "1/4,1")
    wave_eval(*asked, "--out", tmp_path / "one")
    wave_eval(*asked, "--out", tmp_path / "five", "--parallel", 5)
    assert result(tmp_path / "one")["rows"] == result(tmp_path / "five")["rows"]
    assert not (tmp_path / "one" / "perplexity.png").exists()  # nobody asked for it


def test_files_are_joined_by_the_separator(endpoint: FakeEndpoint, wave_eval: Eval, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(name * 10)
    ran = wave_eval(
        "perplexity", "--base-url", endpoint.url, "--text", tmp_path / "a", "--text", tmp_path / "b",
        "--separator", "<>", "--lengths", "22t", "--out", tmp_path / "out",
    )  # fmt: skip
    assert ran.status == 0, ran.err
    assert bytes(endpoint.prompts()[0]) == b"aaaaaaaaaa<>bbbbbbbbbb"
