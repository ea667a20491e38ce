"""`wave-serve config`: the example holds every setting, and a mistake is told with its place."""

import logging
import sys
from pathlib import Path

import pytest
import yaml
from helpers.python import ROOT
from pydantic import BaseModel

from wave_serve.cli import main as cli
from wave_serve.settings import ModelSettings, Settings, UpstreamSettings
from wave_serve.settings.example import render_example
from wave_serve.settings.file import parse_settings

EXAMPLE_FILE = ROOT / "deploy" / "gateway.example.yaml"
VALID = "models:\n  m: {train_length: 512}\nupstreams:\n  - base_url: http://h:1\n    models: [m]\n"


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of `wave-serve`."""
    monkeypatch.setattr(sys, "argv", ["wave-serve", *arguments])
    level = logging.getLogger("wave_serve").level
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert logging.getLogger("wave_serve").level == level
    out, err = capsys.readouterr()
    return end.value.code, out, err


def test_the_example_file_is_what_the_command_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    status, out, _ = run(["config", "example"], monkeypatch, capsys)
    assert status == 0
    assert EXAMPLE_FILE.read_text() == out, "run: wave-serve config example > deploy/gateway.example.yaml"


def sections(kind: type[BaseModel]) -> list[type[BaseModel]]:
    """A section and all below it but those of models and upstreams, which the example fills in."""
    found = [kind]
    for field in kind.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += sections(field.annotation)
    return found


def test_the_example_holds_every_key_with_its_description_and_default() -> None:
    text = render_example()
    words = " ".join(line.strip().removeprefix("# ") for line in text.splitlines())
    for section in [*sections(Settings), *sections(ModelSettings), *sections(UpstreamSettings)]:
        for name, field in section.model_fields.items():
            assert f" {name}:" in words
            assert (field.description or "") in words
    example = parse_settings(text)
    defaults = Settings(models=example.models, upstreams=example.upstreams)
    assert example == defaults
    (model,) = example.models.values()
    assert model == ModelSettings(train_length=512)


def test_no_line_of_the_example_is_too_long() -> None:
    assert max(map(len, render_example().splitlines())) <= 120


def test_a_key_without_a_default_may_be_given_as_it_stands() -> None:
    lines = render_example().splitlines()
    unset = [index for index, line in enumerate(lines) if line.strip().startswith("# ") and line.endswith(": null")]
    assert len(unset) >= 5
    for index in unset:
        lines[index] = lines[index].replace("# ", "", 1)
    assert yaml.safe_load("\n".join(lines))
    parse_settings("\n".join(lines))


def test_check_says_what_a_good_file_means(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(VALID.replace("512", "512, max_tokens: 3000, max_extrapolation: 4"))
    status, out, _ = run(["config", "check", str(file)], monkeypatch, capsys)
    assert status == 0
    first, model, upstream = out.splitlines()
    assert first == f"{file} is valid."
    assert model == (
        "model m: at most 2048 tokens (max_tokens 3000, max_extrapolation 2048) and what its engine can hold; "
        "overflow: reject; prompts are counted by its upstream"
    )
    assert upstream == "upstream http://h:1: m"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (VALID.replace("512", "-1"), ":2:7: models.m.train_length: Input should be greater than 0, got -1"),
        (VALID.replace("512", "512, overflw: reject"), ":2:26: unknown key models.m.overflw; did you mean overflow?"),
        (VALID.replace("[m]", "[n]"), ":5:5: upstreams.0.models names 'n', which is not described under models"),
        (VALID + "admission:\n  max_requests: many\n", ":7:3: admission.max_requests: Input should be a valid integer"),
        (VALID.replace("  m:", "  o: {}\n  m:"), ":2:3: models.o is served by no upstream"),
        (
            VALID.replace("train_length: 512", "max_extrapolation: 3"),
            ":2:7: models.m.max_extrapolation needs train_length",
        ),
        (VALID + "port: [\n", ": not valid YAML"),
    ],
)
def test_check_names_place_key_and_value(
    tmp_path: Path, text: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(text)
    status, _, err = run(["config", "check", str(file)], monkeypatch, capsys)
    assert status == 1
    assert err.startswith(f"wave-serve: {file}")
    assert said in err


def test_check_looks_into_the_files_that_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    keys = tmp_path / "keys.yaml"
    keys.write_text("keys:\n  - nam: alice\n")
    file = tmp_path / "gateway.yaml"
    file.write_text(VALID.replace("512", "512, tokenizer: /no/tokenizer.json") + f"auth: {{keys_file: {keys}}}\n")
    status, _, err = run(["config", "check", str(file)], monkeypatch, capsys)
    assert status == 1
    assert f"{file}: models.m.tokenizer: cannot load tokenizer /no/tokenizer.json" in err
    assert f"{keys}:2:5: unknown key" in err


def test_check_of_a_missing_file_names_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    status, _, err = run(["config", "check", "/no/such.yaml"], monkeypatch, capsys)
    assert status == 1
    assert err.startswith("wave-serve: cannot read /no/such.yaml")
