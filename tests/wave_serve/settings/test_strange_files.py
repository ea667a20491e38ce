"""What YAML allows and no settings need is refused in one line with its place, and what is valid can be served."""

import sys
from pathlib import Path

import pytest
from helpers.fake_upstream import FakeUpstream
from helpers.running import running, settings_for
from pydantic import BaseModel

from wave_serve.cli import main as cli
from wave_serve.settings import Settings
from wave_serve.settings.file import SettingsError, parse_settings

VALID = "models:\n  m: {train_length: 512}\nupstreams:\n  - base_url: http://h:1\n    models: [m]\n"


def mistake(text: str) -> str:
    with pytest.raises(SettingsError) as caught:
        parse_settings(text, "file")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: &x {m: *x}", "file:1:9: models.m contains itself"),
        ("models: &x {m: {zones: *x}}", "file:1:9: models.m.zones contains itself"),
        ("upstreams: &x [*x]", "file:1:12: upstreams.0 contains itself"),
        ("timeouts: &x {<<: *x}", "file:1:11: timeouts.<< contains itself"),
        ("&x {port: 1, models: *x}", "file:1:1: models contains itself"),
        ("engine: {args: " + "[" * 5000 + "]" * 5000 + "}", "file:1:44: nested too deep, over 30 levels"),
        ("engine: " + "{a: " * 5000 + "}" * 5000, "nested too deep"),
        ("- " * 5000, "nested too deep"),
        ("port: " + "[" * 5000, "nested too deep"),
        ("port: 2024-13-45", "file:1:7: not valid YAML: a timestamp that is none '2024-13-45'; quote it"),
        ("models:\n  m: !!int x", "file:2:6: not valid YAML: a int that is none 'x'"),
        ("port: !!bool x", "file:1:7: not valid YAML: a bool that is none"),
        ("port: !!int ''", "file:1:7: not valid YAML: a int that is none"),
        ("port: !!timestamp x", "file:1:7: not valid YAML: a timestamp that is none"),
        ("port: !!float x", "file:1:7: not valid YAML: a float that is none"),
        ("port: !!python/object:os.system x", "file:1:7: not valid YAML: could not determine a constructor"),
        ("port: *nobody", "file:1:7: not valid YAML: found undefined alias"),
        ("? [port]\n: 1", "file:1:3: not valid YAML: found unhashable key"),
        ("a: 1\n---\nb: 2", "file:2:1: not valid YAML: but found another document"),
        ("a: 1\nb: \0", "file:2:4: not valid YAML: special characters are not allowed"),
        ("1: 2", "file:1:1: 1: Keys should be strings, got 1"),
        ("models: {1: {}}", "file:1:"),
        ("host: ''", "file:1:1: host: String should match pattern"),
        ("host: http://0.0.0.0", "file:1:1: host: String should match pattern"),
    ],
)
def test_it_is_one_line_with_the_place(text: str, said: str) -> None:
    assert mistake(text).startswith(said) or (not said.startswith("file") and said in mistake(text))


def test_aliases_that_stand_for_too_much_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 20)]
    assert "more than 100000 entries, aliases counted in full" in mistake("\n".join(lines))


def test_aliases_and_merges_are_read() -> None:
    more = "  n: {<<: *m, max_tokens: 9}\nupstreams"
    text = VALID.replace("{train_length", "&m {train_length").replace("upstreams", more)
    models = parse_settings(text.replace("[m]", "[m, n]")).models
    assert (models["n"].train_length, models["n"].max_tokens) == (512, 9)


def numbers(kind: type[BaseModel], path: str = "") -> list[str]:
    """Paths of the settings that are numbers, of sections that hold no lists."""
    found = []
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += numbers(field.annotation, f"{path}{name}.")
        elif isinstance(field.default, int | float) and not isinstance(field.default, bool):
            found.append(path + name)
    return found


FIELDS = [path.split(".") for path in numbers(Settings)]
OF_A_MODEL = ["max_extrapolation", "truncate_up_to", "validated_tolerance", "train_length", "max_tokens", "vocab_size"]


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan", "1.0e+300", "9" * 400, "-1"])
def test_a_number_that_nothing_can_be_done_with_is_refused(value: str) -> None:
    assert len(FIELDS) > 30
    for path in FIELDS:
        if path[0] == "port" or (path == ["admission", "queue_requests"] and value == "-1"):
            pass
        text = "".join(f"{'  ' * depth}{part}:\n" for depth, part in enumerate(path)).rstrip() + f" {value}\n"
        assert mistake(text).startswith(f"file:{len(path)}:"), path
    for field in OF_A_MODEL:
        said = mistake(VALID.replace("train_length: 512", f"{field}: {value}"))
        assert said.startswith("file:2:7: models.m."), said


def test_the_largest_that_is_valid_can_be_served(upstream: FakeUpstream) -> None:
    model = {"train_length": 2**53, "max_extrapolation": 1e9, "truncate_up_to": 1e9, "validated_tolerance": 1e9}
    waits = dict.fromkeys(("body", "idle", "silence", "generation", "keep_alive", "connect", "poll_answer"), 1e9)
    with running(settings_for(upstream, model=model, timeouts=waits)) as one:
        assert one.post({"prompt": "hello", "max_tokens": 5}).status_code == 200
        assert one.post({"prompt": "hello", "max_tokens": 5}, "/v1/context").status_code == 200


def test_the_command_says_so_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "gateway.yaml"
    for text in ("models: &x {m: *x}", VALID.replace("512", "512, max_extrapolation: .inf"), "port: 2024-13-45"):
        file.write_text(text)
        monkeypatch.setattr(sys, "argv", ["wave-serve", "config", "check", str(file)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr().err
        assert end.value.code == 1
        assert said.startswith(f"wave-serve: {file}:")
        assert said.count("\n") == 1
