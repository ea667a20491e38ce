"""URLs are shown without a key at /ready and /metrics, so that no credentials may stand in them."""

import sys

import pytest

from wave_serve.cli import main as cli
from wave_serve.settings.file import SettingsError, parse_settings

CANARY = "canary"
INSTEAD = "give them as api_key or headers, env:NAME or file:PATH"
URLS = [
    "http://svc:canary@host",
    "https://canary@host:8000/",
    "http://:canary@host",
    "http://svc:cana%2Fry-canary@host",
    "http://svc:a/canary@host",
    "http://svc:can@canary@host",
    "//svc:canary@host",
    "svc:canary@host",
    "http://host/?token=canary",
    "http://host?token=canary",
    "http://host/#canary",
]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize(
    ("text", "instead"),
    [
        ("models: {{m: {{}}}}\nupstreams: [{{base_url: '{}', models: [m]}}]\n", INSTEAD),
        ("tracing: {{endpoint: '{}'}}\n", "give them in OTEL_EXPORTER_OTLP_HEADERS"),
    ],
)
def test_credentials_in_a_url_are_refused_and_not_shown(url: str, text: str, instead: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings(text.format(url), "file")
    assert instead in str(caught.value)
    assert CANARY not in str(caught.value)
    assert str(caught.value).startswith("file:")


@pytest.mark.parametrize(
    "text",
    [
        "upstreams: http://svc:canary@host\n",
        "upstreams: ['http://svc:canary@host']\n",
        "upstreams: [{base_url: ['http://svc:canary@host'], models: [m]}]\n",
        "upstreams: [{base_url: http://h, models: 'http://svc:canary@host'}]\n",
        "host: ['http://svc:canary@host']\n",
    ],
)
def test_nor_where_the_mistake_is_another_one(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings(text, "file")
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("url", URLS)
def test_nor_by_an_evaluation(
    url: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path_factory.mktemp("eval") / "out"
    for urls in ([url], [url, url], [f"name={url}"]):
        given = [part for one in urls for part in ("--base-url", one)]
        monkeypatch.setattr(sys, "argv", ["wave-serve", "eval", "passkey", *given, "--out", str(out)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        assert end.value.code == 1
        assert "OPENAI_API_KEY" in said.err or not url.startswith("http")
        assert CANARY not in said.out + said.err
    assert not out.exists()
