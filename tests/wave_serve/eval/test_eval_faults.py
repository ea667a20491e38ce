"""What a user sees when an evaluation cannot go on: one line, a status, and what was measured so far."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers.eval_command import Eval, message, result
from helpers.fake_endpoint import FakeEndpoint
from helpers.served import PROGRAM, free_port

COMMANDS = ("perplexity", "passkey")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_dead_endpoint(command: str, text: Path, wave_eval: Eval, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    ran = wave_eval(command, "--base-url", f"gone={url}", "--text", text, "--out", tmp_path / "out")
    assert message(ran).startswith(f"endpoint gone: cannot reach {url}/v1/models: ")


def test_an_endpoint_that_has_moved(endpoint: FakeEndpoint, wave_eval: Eval, tmp_path: Path) -> None:
    endpoint.fault = lambda _path, _body: (308, {})
    said = message(wave_eval("passkey", "--base-url", f"x={endpoint.url}", "--out", tmp_path / "out"))
    assert said == "endpoint x: /v1/models answered 308: it has moved to https://moved/v1/models"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("address", ["127.0.0.1:8000", "a=localhost:8000/v1/", "example.com"])
def test_an_address_without_a_scheme(command: str, address: str, text: Path, wave_eval: Eval, tmp_path: Path) -> None:
    url = address.removeprefix("a=").removesuffix("/")
    said = message(wave_eval(command, "--base-url", address, "--text", text, "--out", tmp_path / "out"))
    assert said == f"--base-url {url!r}: the URL has no scheme; http://{url} has one"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_model_name(command: str, endpoint: FakeEndpoint, text: Path, wave_eval: Eval, tmp_path: Path) -> None:
    asked = (command, "--base-url", f"x={endpoint.url}", "--model", "nope", "--text", text, "--out", tmp_path / "out")
    assert message(wave_eval(*asked)) == "endpoint x: does not serve the model 'nope'; served are: fake"


def test_an_endpoint_with_several_models_needs_a_choice(
    endpoint: FakeEndpoint, text: Path, wave_eval: Eval, tmp_path: Path
) -> None:
    cards = [{"id": "a"}, {"id": "b"}]
    endpoint.fault = lambda path, _body: (200, {"data": cards}) if path == "/v1/models" else None
    ran = wave_eval("perplexity", "--base-url", f"x={endpoint.url}", "--text", text, "--out", tmp_path / "out")
    assert message(ran) == "endpoint x: give --model; served are: a, b"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("perplexity", "the text has 2000 tokens on endpoint x; length 2048 needs 2048"),
        ("passkey", "the filler has 2000 tokens on endpoint x; length 2048 needs 2048"),
    ],
)
def test_a_text_shorter_than_the_length(
    command: str, said: str, endpoint: FakeEndpoint, text: Path, wave_eval: Eval, tmp_path: Path
) -> None:
    endpoint.card["max_model_len"] = 4096
    ran = wave_eval(
        command, "--base-url", f"x={endpoint.url}", "--text", text, "--out", tmp_path / "out", "--lengths", "1,32"
    )
    assert message(ran) == said
    assert endpoint.prompts() == []


@pytest.mark.parametrize(("command", "needed"), [("perplexity", 1025), ("passkey", 1024)])
def test_a_length_over_the_cap(
    command: str, needed: int, endpoint: FakeEndpoint, text: Path, wave_eval: Eval, tmp_path: Path
) -> None:
    ran = wave_eval(
        command, "--base-url", f"x={endpoint.url}", "--text", text, "--out", tmp_path / "out", "--lengths", "1,16"
    )
    assert message(ran) == f"endpoint x: length 1024 needs {needed} tokens, its limit is 1000 tokens"
    assert endpoint.prompts() == []


def test_an_endpoint_without_log_probabilities(
    endpoint: FakeEndpoint, text: Path, wave_eval: Eval, tmp_path: Path
) -> None:
    asked = ("perplexity", "--base-url", f"x={endpoint.url}", "--text", text, "--out", tmp_path / "out")
    silent = {"choices": [{"text": "", "logprobs": None}]}
    refusal = {"error": {"message": "unknown field\nprompt_logprobs"}}

    def fault(path: str, body: dict) -> tuple | None:
        if path != "/v1/completions":
            return None
        return (400, refusal) if "prompt_logprobs" in body else (200, silent)

    endpoint.fault = fault
    assert message(wave_eval(*asked)) == (
        "endpoint x: gives no log-probabilities of a prompt (/v1/completions answered 400: unknown field "
        "prompt_logprobs; no logprobs of the echoed prompt in the answer)"
    )


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([None, {"5": {"logprob": -1}}], "gives log-probabilities of 2 tokens for a prompt of 51"),
        ([None] + [{"-5": {"logprob": -1}}] * 50, "its prompt_logprobs are not those of the prompt's tokens"),
        (None, "the log-probability of prompt token 1 is None, not a number"),
    ],
)
def test_malformed_log_probabilities(
    rows: list | None, said: str, endpoint: FakeEndpoint, text: Path, wave_eval: Eval, tmp_path: Path
) -> None:
    def fault(path: str, body: dict) -> tuple | None:
        if path != "/v1/completions":
            return None
        given = rows or [None] + [{str(token): {"logprob": None}} for token in body["prompt"][1:]]
        return 200, {"choices": [{"prompt_logprobs": given}]}

    endpoint.fault = fault
    ran = wave_eval("perplexity", "--base-url", f"x={endpoint.url}", "--text", text, "--out", tmp_path / "out")
    # Answers of the wrong shape are no reason to try the other way, which could be worse.
    assert message(ran) == f"endpoint x: {said}"


@pytest.mark.parametrize(
    ("command", "path", "answer", "said"),
    [
        ("passkey", "/tokenize", {"tokens": []}, "its /tokenize gives no token ids"),
        ("ruler", "/tokenize", {"tokens": []}, "its /tokenize gives no token ids"),
        ("perplexity", "/tokenize", {"tokens": []}, "its /tokenize gives no token ids"),
        ("perplexity", "/detokenize", {"prompt": ""}, "its /detokenize gives no text"),
    ],
)
def test_an_endpoint_that_understands_the_request_otherwise(
    command: str, path: str, answer: dict, said: str, endpoint: FakeEndpoint, wave_eval: Eval, tmp_path: Path
) -> None:
    endpoint.fault = lambda asked, _body: (200, answer) if asked == path else None
    ran = wave_eval(command, "--base-url", f"x={endpoint.url}", "--lengths", "300t", "--out", tmp_path / "out")
    assert message(ran) == f"endpoint x: {said}"


@pytest.mark.parametrize("lengths", ["", "1,,2", "x", "-1", "1/0", "2048 tokens", "1e3"])
def test_lengths_that_cannot_be_read(
    lengths: str, endpoint: FakeEndpoint, text: Path, wave_eval: Eval, tmp_path: Path
) -> None:
    asked = ("perplexity", "--base-url", endpoint.url, "--text", text, "--out", tmp_path / "out")
    said = message(wave_eval(*asked, f"--lengths={lengths}"))
    assert said.startswith("--lengths: cannot read ")
    assert "\n" not in said


@pytest.mark.parametrize(
    ("lengths", "said"),
    [
        ("0", "length '0' is 0 tokens; a whole number of 2 or more is needed"),
        ("1/3", "length '1/3' is 21.3333 tokens; a whole number of 2 or more is needed"),
        ("1t", "length '1t' is 1 tokens; a whole number of 2 or more is needed"),
    ],
)
def test_lengths_that_are_no_lengths(
    lengths: str, said: str, endpoint: FakeEndpoint, text: Path, wave_eval: Eval, tmp_path: Path
) -> None:
    asked = ("perplexity", "--base-url", endpoint.url, "--text", text, "--out", tmp_path / "out")
    assert message(wave_eval(*asked, "--lengths", lengths)) == said


def test_multiples_need_a_training_length(endpoint: FakeEndpoint, text: Path, wave_eval: Eval, tmp_path: Path) -> None:
    del endpoint.card["train_length"]
    asked = ("perplexity", "--base-url", f"x={endpoint.url}", "--text", text, "--out")
    assert "give --train-length, or tokens such as 2048t" in message(wave_eval(*asked, tmp_path / "a"))
    assert wave_eval(*asked, tmp_path / "b", "--train-length", 32).status == 0
    assert [row["length"] for row in result(tmp_path / "b")["rows"]] == [32, 64, 128, 256]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--base-url", "a=ftp://x"], "--base-url 'ftp://x': "),
        (["--base-url", "a=http://h", "--base-url", "a=http://i"], "two endpoints are named 'a'"),
        (["--base-url", "http://h", "--text", "/no/such/text"], "cannot read text /no/such/text: No such file"),
        (["--base-url", "http://h", "--out", "/proc/no/out"], "cannot write /proc/no/out/perplexity.jsonl: "),
        (["--base-url", "http://h", "--out", f"/etc/{'x' * 256}"], "x/perplexity.json: File name too long"),
    ],
)
def test_options_that_cannot_be_used(options: list[str], said: str, wave_eval: Eval, tmp_path: Path) -> None:
    assert said in message(wave_eval("perplexity", "--out", tmp_path / "out", *options))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("OPENAI_API_KEY", "sk-canary\nx", "the environment variable OPENAI_API_KEY holds characters that a header "),
        ("HTTP_PROXY", "none://u:canary@h", "the proxies or certificates of the environment (HTTPS_PROXY, "),
        ("SSL_CERT_FILE", "/no/such/file", "the proxies or certificates of the environment (HTTPS_PROXY, "),
    ],
)
def test_an_environment_that_cannot_be_used(
    name: str, value: str, said: str, wave_eval: Eval, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    found = message(wave_eval("passkey", "--base-url", "http://h", "--out", tmp_path / "out"))
    assert found.startswith(said)
    assert "canary" not in found


def test_a_key_with_a_line_end_behind_it_is_sent_without(
    endpoint: FakeEndpoint, wave_eval: Eval, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-key\n")
    asked = ("passkey", "--base-url", endpoint.url, "--out", tmp_path / "out", "--lengths", "2", "--trials", 1)
    assert wave_eval(*asked).status == 0


@pytest.mark.parametrize(("data", "said"), [(b"", "is empty"), (b"ab\xff", "is not UTF-8: byte 2 is 0xff")])
def test_texts_that_cannot_be_used(data: bytes, said: str, wave_eval: Eval, tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(data)
    ran = wave_eval("perplexity", "--base-url", "http://h", "--text", tmp_path / "bad", "--out", tmp_path / "out")
    assert message(ran) == f"text {tmp_path / 'bad'} {said}"


@pytest.mark.parametrize(
    ("depths", "said"),
    [
        ("0,101", "--depths '101': Input should be less than or equal to 100"),
        ("a", "--depths 'a': Input should be a valid integer"),
        ("", "--depths '': Input should be a valid integer"),
        ("0,,50", "--depths '': Input should be a valid integer"),
    ],
)
def test_depths_that_are_none(depths: str, said: str, wave_eval: Eval, tmp_path: Path) -> None:
    ran = wave_eval("passkey", "--base-url", "http://h", "--out", tmp_path / "out", f"--depths={depths}")
    assert message(ran).startswith(said)


def test_a_missing_matplotlib_is_told_before_anything_is_measured(
    endpoint: FakeEndpoint, text: Path, wave_eval: Eval, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    ran = wave_eval("perplexity", "--base-url", endpoint.url, "--text", text, "--out", tmp_path / "out", plot=True)
    assert message(ran) == "the plot needs matplotlib: install wave-serve[train], or give --no-plot"
    assert endpoint.completions == []


def test_an_endpoint_that_is_busy_for_a_while_is_asked_again(
    endpoint: FakeEndpoint, text: Path, wave_eval: Eval, tmp_path: Path
) -> None:
    busy = iter([503, 429, 503])

    def fault(path: str, _body: dict) -> tuple | None:
        status = next(busy, None) if path == "/v1/completions" else None
        return status and (status, {"error": {"message": "later"}})

    endpoint.fault = fault
    ran = wave_eval("perplexity", "--base-url", endpoint.url, "--text", text, "--out", tmp_path / "out")
    assert ran.status == 0, ran.err


def fail_after(endpoint: FakeEndpoint, prompts: int) -> None:
    """Lets the endpoint answer that many prompts, then 500."""

    def fault(path: str, _body: dict) -> tuple | None:
        if path == "/v1/completions" and len(endpoint.prompts()) > prompts:
            return 500, {"error": {"message": "out of memory"}}
        return None

    endpoint.fault = fault


@pytest.mark.parametrize(("command", "count"), [("perplexity", "prompts"), ("passkey", "trials")])
def test_what_was_measured_before_a_failure_is_kept_and_not_asked_again(
    command: str, count: str, endpoint: FakeEndpoint, text: Path, wave_eval: Eval, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    asked = (command, "--base-url", f"x={endpoint.url}", "--text", text, "--lengths", "4,8", "--out", out)
    fail_after(endpoint, 5)
    said = message(wave_eval(*asked))
    assert said == (
        "endpoint x: /v1/completions answered 500: out of memory; "
        f"what was measured is kept in {out}, go on with --resume"
    )
    partial = result(out, command)
    assert partial["error"] == "endpoint x: /v1/completions answered 500: out of memory"
    assert sum(row[count] for row in partial["rows"]) == 5
    assert partial["rows"][-1]["complete"] is False
    assert (out / f"{command}.md").exists()

    endpoint.fault = lambda _path, _body: None
    endpoint.completions.clear()
    assert wave_eval(*asked, "--resume").status == 0
    whole = result(out, command)
    assert len(endpoint.prompts()) == sum(row[count] for row in whole["rows"]) - 5
    assert all(row["complete"] for row in whole["rows"])
    wave_eval(*asked[:-1], tmp_path / "anew")
    assert whole["rows"] == result(tmp_path / "anew", command)["rows"]


def test_an_interrupted_run_keeps_what_it_measured(endpoint: FakeEndpoint, text: Path, tmp_path: Path) -> None:
    reached, release = threading.Event(), threading.Event()

    def fault(path: str, _body: dict) -> None:
        if path == "/v1/completions" and len(endpoint.prompts()) == 6:
            reached.set()
            release.wait(60)

    endpoint.fault = fault
    out = tmp_path / "out"
    command = [sys.executable, "-c", PROGRAM, "eval", "perplexity", "--base-url", endpoint.url, "--text", str(text)]
    process = subprocess.Popen(
        [*command, "--out", str(out), "--lengths", "1/4,1", "--no-plot"],
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background ignores the signal, and its children would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert reached.wait(60)
        os.kill(process.pid, signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    finally:
        release.set()
        process.kill()
    assert process.returncode == 130
    assert "wave-serve: interrupted; what was measured is kept in" in said
    assert "Traceback" not in said
    [row] = result(out)["rows"]
    assert (row["prompts"], row["complete"]) == (5, False)
    assert result(out)["error"] == "interrupted"
    assert len((out / "perplexity.jsonl").read_text().splitlines()) == 1 + 5


def test_an_earlier_run_is_not_overwritten(endpoint: FakeEndpoint, text: Path, wave_eval: Eval, tmp_path: Path) -> None:
    asked = ("perplexity", "--base-url", endpoint.url, "--text", text, "--out", tmp_path / "out")
    assert wave_eval(*asked).status == 0
    before = (tmp_path / "out" / "perplexity.json").read_bytes()
    said = message(wave_eval(*asked))
    assert said.endswith("perplexity.jsonl holds an earlier run; give --resume to go on, or another --out")
    assert (tmp_path / "out" / "perplexity.json").read_bytes() == before


def test_another_model_under_the_same_name_is_not_mixed_in(
    endpoint: FakeEndpoint, text: Path, wave_eval: Eval, tmp_path: Path
) -> None:
    asked = ("perplexity", "--base-url", f"x={endpoint.url}", "--text", text, "--out", tmp_path / "out")
    assert wave_eval(*asked).status == 0
    endpoint.shift = 0.1
    said = message(wave_eval(*asked, "--resume"))
    assert "was measured on another model: on endpoint x, fake now scores a probe 0.100 nats per token apart" in said


def test_a_line_cut_by_a_crash_is_measured_again(
    endpoint: FakeEndpoint, text: Path, wave_eval: Eval, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    asked = ("perplexity", "--base-url", endpoint.url, "--text", text, "--out", out)
    assert wave_eval(*asked).status == 0
    rows = result(out)["rows"]
    journal = out / "perplexity.jsonl"
    journal.write_bytes(journal.read_bytes()[:-7])
    endpoint.completions.clear()
    assert wave_eval(*asked, "--resume").status == 0
    assert len(endpoint.prompts()) == 1
    assert result(out)["rows"] == rows
    assert all(json.loads(line)["key"] for line in journal.read_text().splitlines())


def test_a_foreign_file_is_not_taken_for_a_journal(wave_eval: Eval, tmp_path: Path) -> None:
    (tmp_path / "perplexity.jsonl").write_text("notes\n")
    ran = wave_eval("perplexity", "--base-url", "http://h", "--out", tmp_path, "--resume")
    assert message(ran) == f"{tmp_path / 'perplexity.jsonl'}: line 1 is not a record of this command"
