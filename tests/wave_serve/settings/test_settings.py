"""The settings file: defaults, and mistakes that are named with their place."""

from pathlib import Path

import pytest
from helpers.python import ROOT
from pydantic import ValidationError

from wave_serve.settings import ModelSettings, Settings
from wave_serve.settings.file import SettingsError, load_settings, parse_settings

VALID = """
port: 8001
models:
  demo: {train_length: 512, max_extrapolation: 8}
upstreams:
  - base_url: http://127.0.0.1:9000/
    models: [demo]
"""


def test_a_file_gives_its_values_and_the_rest_defaults() -> None:
    settings = parse_settings(VALID)
    assert settings.port == 8001
    assert settings.host == Settings().host
    assert settings.upstreams[0].base_url == "http://127.0.0.1:9000"
    assert settings.models["demo"].max_extrapolation == 8


def test_an_empty_file_is_all_defaults() -> None:
    assert parse_settings("# nothing yet\n") == Settings()


def test_the_example_file_is_valid() -> None:
    example = ROOT / "deploy" / "gateway.example.yaml"
    assert load_settings(example).upstreams


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]


def test_an_explicit_cap_replaces_the_default_extrapolation() -> None:
    assert ModelSettings(max_tokens=100_000).max_extrapolation is None
    assert ModelSettings(max_tokens=100_000, max_extrapolation=2).max_extrapolation == 2
    assert ModelSettings().max_extrapolation == 80


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prot: 1", "file:1:1: unknown key prot; did you mean port?"),
        (VALID + "timeouts:\n  conect: 3\n", "file:9:3: unknown key timeouts.conect; did you mean connect?"),
        (
            VALID.replace("max_extrapolation", "max_extrapolaton"),
            "file:4:29: unknown key models.demo.max_extrapolaton; did you mean max_extrapolation?",
        ),
        (
            VALID.replace("    models:", "    model:"),
            "file:7:5: unknown key upstreams.0.model; did you mean models?",
        ),
        ("port: 70000", "file:1:1: port: Input should be less than or equal to 65535, got 70000"),
        ("port: 1\nhost: a\nport: 2", "file:3:1: port is given twice"),
        ("cors: {origins: '*'}", "file:1:8: cors.origins: expected a list, got '*'"),
        ("timeouts: 5", "file:1:1: timeouts: expected keys and values, got 5"),
        ("models: [demo]", "file:1:1: models: expected keys and values, got ['demo']"),
        (VALID.replace("512", "many"), "file:4:10: models.demo.train_length: Input should be a valid integer"),
        (
            VALID.replace("}", ", overflow: shorten}"),
            "file:4:51: models.demo.overflow: Input should be 'reject', 'truncate_head', 'truncate_middle'",
        ),
        (
            VALID.replace("}", ", zones: {trained: reject}}"),
            "file:4:59: models.demo.zones.trained: reject would refuse every request",
        ),
        (VALID.replace("[demo]", "[other]"), "file:7:5: upstreams.0.models names 'other', which is not"),
        (VALID.replace("train_length: 512, ", ""), "models.demo.max_extrapolation needs train_length beside it"),
        ("a: [1", "file:1:6: not valid YAML"),
        ("- 1", "file:1:1: expected keys and values, found list"),
        ("just text", "file:1:1: expected keys and values, found str"),
        (
            VALID.replace("http://127.0.0.1:9000/", "nowhere:80"),
            "file:6:5: upstreams.0.base_url: the URL has no scheme; http://nowhere:80 has one, got 'nowhere:80'",
        ),
        (VALID.replace("http://127.0.0.1:9000/", "ftp://nowhere"), "file:6:5: upstreams.0.base_url: URL scheme should"),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings(text, "file")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("given", "root"),
    [
        ("http://a:1/v1", "http://a:1"),
        ("http://a:1/v1/", "http://a:1"),
        ("http://a:1//v1//", "http://a:1"),
        ("http://a:1/proxy/v1", "http://a:1/proxy"),
        ("http://a:1/v10", "http://a:1/v10"),
        ("http://a:1/v1/x", "http://a:1/v1/x"),
        ("http://v1", "http://v1"),
    ],
)
def test_the_root_of_an_upstream_is_without_the_v1_that_clients_are_given(given: str, root: str) -> None:
    settings = parse_settings(VALID.replace("http://127.0.0.1:9000/", given), "file")
    assert settings.upstreams[0].base_url == root


def test_every_mistake_is_named_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings("prot: 1\nhots: x\n", "file")
    assert str(caught.value).count("unknown key") == 2


def test_a_missing_file_is_named() -> None:
    with pytest.raises(SettingsError, match=r"cannot read /no/such\.yaml"):
        load_settings(Path("/no/such.yaml"))
