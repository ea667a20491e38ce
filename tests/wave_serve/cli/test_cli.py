"""What a user sees of mistakes on the command line: one message, status 1, no traceback."""

import json
import logging
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import weight_files

from wave_serve.cli import main as cli
from wave_serve.engine import command as engine
from wave_serve.engine.checkpoint import bundled_checkpoint, inspect_checkpoint

GOOD = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 2048,
    "train_length": 128,
    "tie_word_embeddings": True,
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(GOOD))
    weight_files.write(tmp_path / "model.safetensors", weight_files.llama(GOOD))
    return tmp_path


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """`main` sends the log to the standard error of one test, which ends with it."""
    loggers = [logging.getLogger(name) for name in ("wave_serve", "uvicorn")]
    before = [(one.handlers, one.level, one.propagate) for one in loggers]
    yield
    for one, (handlers, level, propagate) in zip(loggers, before, strict=True):
        one.handlers, one.propagate = handlers, propagate
        one.setLevel(level)


def fails_with(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> str:
    monkeypatch.setattr(sys, "argv", ["wave-serve", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code not in (0, None)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def test_a_good_checkpoint_is_described(checkpoint: Path) -> None:
    found = inspect_checkpoint(checkpoint)
    assert (found.train_length, found.max_position_embeddings, found.vocab_size) == (128, 2048, 100)
    assert found.tokenizer is None


def test_without_a_train_length_the_position_limit_stands_for_it(checkpoint: Path) -> None:
    config = {key: value for key, value in GOOD.items() if key != "train_length"}
    (checkpoint / "config.json").write_text(json.dumps(config))
    assert inspect_checkpoint(checkpoint).train_length == 2048


def test_a_checkpoint_that_cannot_be_looked_at(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    said = fails_with(["serve", "x" * 256], monkeypatch, capsys)
    assert said.startswith(f"wave-serve: cannot read checkpoint {'x' * 256}: [Errno 36] File name too long")


def test_a_missing_checkpoint(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    said = fails_with(["serve", "/no/such/model"], monkeypatch, capsys)
    assert said == (
        "wave-serve: checkpoint /no/such/model does not exist; give the path of a local checkpoint directory\n"
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "not valid JSON: Expecting value at line 1, column 1"),
        ('{"model_type": "llama",', "not valid JSON: Expecting property name"),
        ("[1, 2]", "expected a JSON object, found list"),
        (json.dumps({**GOOD, "hidden_size": "big"}), "field hidden_size must be a positive integer, got 'big'"),
        (json.dumps({**GOOD, "train_length": -1}), "field train_length must be a positive integer, got -1"),
        (json.dumps({**GOOD, "model_type": 3}), "field model_type must be a string, got 3"),
        (json.dumps({"model_type": "llama"}), "field hidden_size is missing"),
        (
            json.dumps({**GOOD, "max_position_embeddings": None}),
            "field max_position_embeddings must be a positive integer, got None",
        ),
    ],
)
def test_a_broken_config(
    checkpoint: Path, content: str, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (checkpoint / "config.json").write_text(content)
    said = fails_with(["serve", str(checkpoint)], monkeypatch, capsys)
    assert said.startswith(f"wave-serve: {checkpoint / 'config.json'}: {reason}")


def test_a_checkpoint_without_config_or_weights(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (checkpoint / "model.safetensors").unlink()
    assert "holds no weights" in fails_with(["serve", str(checkpoint)], monkeypatch, capsys)
    (checkpoint / "config.json").unlink()
    assert "config.json does not exist" in fails_with(["serve", str(checkpoint)], monkeypatch, capsys)


def test_a_port_in_use(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        said = fails_with(["serve", str(checkpoint), "--port", str(port)], monkeypatch, capsys)
    assert said == f"wave-serve: cannot listen on 127.0.0.1 port {port}: Address already in use\n"


def test_an_unknown_key_in_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("upstream: []\n")
    said = fails_with(["gateway", "--config", str(file)], monkeypatch, capsys)
    assert said == f"wave-serve: {file}:1:1: unknown key upstream; did you mean upstreams?\n"


def test_a_gateway_without_upstreams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("port: 8001\n")
    assert "upstreams is required" in fails_with(["gateway", "--config", str(file)], monkeypatch, capsys)


def test_a_tokenizer_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("models: {m: {tokenizer: /no/tokenizer.json}}\nupstreams: [{base_url: 'http://h', models: [m]}]\n")
    said = fails_with(["gateway", "--config", str(file)], monkeypatch, capsys)
    assert "cannot load tokenizer /no/tokenizer.json" in said


def test_a_context_beyond_the_checkpoints_positions(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    said = fails_with(["serve", str(checkpoint), "--max-context", "4096"], monkeypatch, capsys)
    assert "4096 tokens is more than the checkpoint's max_position_embeddings of 2048" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("models: {other: {}}", "models describes 'other', but the served model is 'mine'"),
        (
            "models: {m: {}}\nupstreams: [{base_url: 'http://h', models: [m]}]",
            "upstreams belong to `wave-serve gateway`",
        ),
    ],
)
def test_settings_that_do_not_go_with_serve(
    checkpoint: Path,
    tmp_path: Path,
    content: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(content)
    arguments = ["serve", str(checkpoint), "--name", "mine", "--config", str(file)]
    assert said in fails_with(arguments, monkeypatch, capsys)


@pytest.mark.parametrize(("given", "use"), [("--port", "--port before the --"), ("--max_model_len=9", "--max-context")])
def test_engine_arguments_that_serve_sets_itself(
    checkpoint: Path, given: str, use: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    said = fails_with(["serve", str(checkpoint), "--", given, "1"], monkeypatch, capsys)
    assert f"is set by wave-serve; use {use} instead" in said


def test_serve_without_vllm_says_what_to_install(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(engine.importlib.util, "find_spec", lambda _name: None)
    said = fails_with(["serve", str(checkpoint)], monkeypatch, capsys)
    assert "install wave-serve[cpu] or wave-serve[gpu]" in said


def test_a_command_without_its_packages_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    entry = cli.added_commands()["train"]
    program = "import accelerate\ndef train(): ...\n"
    module = type(sys)("needs_accelerate")
    monkeypatch.setattr(type(entry), "load", lambda _self: exec(program, vars(module)))  # noqa: S102
    said = fails_with(["train"], monkeypatch, capsys)
    assert said == "wave-serve: `train` needs accelerate, install wave-serve[train]\n"


def test_the_bundled_checkpoint_is_found_without_importing_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "model_registry"
    (package / "demo" / "small").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "demo" / "small" / "config.json").write_text("{}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "model_registry", raising=False)
    assert bundled_checkpoint() == package / "demo" / "small"
