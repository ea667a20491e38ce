"""Settings of upstreams that are looked up, and of the store of limits."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from wave_serve.cli.config import app
from wave_serve.settings.errors import SettingsError
from wave_serve.settings.file import parse_settings

MODEL = "models: {m: {}}\n"


@pytest.mark.parametrize(
    ("entry", "place"),
    [
        ("base_url: http://h:1/v1", "http://h:1"),
        ("dns: http://vllm.default.svc:8000", "dns http://vllm.default.svc:8000"),
        ("srv: https://_http._tcp.vllm.default.svc, ca_file: ca.pem", "srv https://_http._tcp.vllm.default.svc"),
        ("file: engines.yaml, ca_file: ca.pem", "file engines.yaml"),
    ],
)
def test_an_entry_says_where_its_servers_are(entry: str, place: str) -> None:
    (found,) = parse_settings(f"{MODEL}upstreams: [{{{entry}, models: [m]}}]\n").upstreams
    assert found.place == place


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{MODEL}upstreams: [{{models: [m]}}]", "upstreams.0: one of base_url, dns, srv, file is needed, got none"),
        (
            f"{MODEL}upstreams: [{{base_url: http://a, dns: http://b, models: [m]}}]",
            "one of base_url, dns, srv, file is needed, got base_url and dns",
        ),
        (f"{MODEL}upstreams: [{{dns: vllm:8000, models: [m]}}]", "upstreams.0.dns: the URL has no scheme"),
        (f"{MODEL}upstreams: [{{dns: http://b, ca_file: x, models: [m]}}]", "ca_file needs a base_url with https"),
        ("discovery: {nameserver: ns.example:53}", "discovery.nameserver: must begin with an IP address"),
        ("discovery: {nameserver: 127.0.0.1}", "discovery.nameserver: must be ADDRESS:PORT"),
        ("limits: {store: 'http://h:1'}", "limits.store: must be redis://HOST:PORT/DB"),
        ("limits: {store: 'redis://h:99999'}", "limits.store: must be redis://HOST:PORT/DB"),
        ("limits: {store: 'redis://h:db'}", "limits.store: must be redis://HOST:PORT/DB"),
        ("limits: {store: 'rediss://[::1'}", "limits.store: must be redis://HOST:PORT/DB"),
        ("limits: {when_down: wait}", "limits.when_down"),
        ("limits: {store: 'redis://h', ca_file: x}", "ca_file needs a store with rediss"),
        ("limits: {store: 'redis://h', username: u}", "username needs password beside it"),
        ("limits: {password: canary}", "a secret does not stand here itself"),
        ("limits: {store: 'redis://:canary@h:1'}", "credentials in a URL would be public"),
        ("limits: {store: 'redis://h:1?password=canary'}", "must be redis://HOST:PORT/DB"),
    ],
)
def test_a_mistake_is_named_and_no_secret_shown(text: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings(text, "file")
    assert said in str(caught.value)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "store", ["redis://h", "redis://h:6379/3", "rediss://[::1]:6380/0", "unix:///run/valkey.sock?db=2"]
)
def test_a_store_is_a_url_as_redis_clients_write_it(store: str) -> None:
    assert parse_settings(f"limits: {{store: '{store}'}}").limits.store == store


def test_config_check_reads_lists_and_passwords(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, engines = tmp_path / "gateway.yaml", tmp_path / "engines.yaml"
    file.write_text(
        f"{MODEL}upstreams: [{{file: {engines}, models: [m]}}]\n"
        "limits: {store: 'redis://127.0.0.1:1', password: env:STORE_PASSWORD}\n"
    )
    monkeypatch.delenv("STORE_PASSWORD", raising=False)
    run = CliRunner()
    engines.write_text("- http://10.0.0.1:8000\n- nowhere:1\n")
    with pytest.raises(SettingsError) as caught:
        run.invoke(app, ["check", str(file)], catch_exceptions=False)
    assert f"upstreams.0.file: {engines}:2:3: 1: the URL has no scheme" in str(caught.value)
    assert "limits.password: the environment variable STORE_PASSWORD is not set" in str(caught.value)
    engines.write_text("[]")
    monkeypatch.setenv("STORE_PASSWORD", "canary")
    assert f"upstream file {engines}: m" in run.invoke(app, ["check", str(file)], catch_exceptions=False).output
