"""Browsers: which pages may ask, before a key is asked for, and what of an answer they may read."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from helpers.fake_upstream import DONE, FakeUpstream, delta, stream
from helpers.running import Running, running, settings_for

from wave_serve.headers import Header
from wave_serve.keys.file import entry_for
from wave_serve.settings import CorsSettings
from wave_serve.settings.file import SettingsError, parse_settings

KEY = "sk-wave-0123456789abcdef0123456789abcdef"
PAGE = "https://app.example:8443"
ASKING = {"origin": PAGE, "authorization": f"Bearer {KEY}"}
WISHES = {
    "openai": "authorization,content-type,x-stainless-arch,x-stainless-retry-count",
    "anthropic": "x-api-key,anthropic-version,anthropic-dangerous-direct-browser-access,content-type",
}
BODY = {"model": "fake", "prompt": "hello", "max_tokens": 5}


def preflight(one: Running, origin: str, method: str = "POST", wishes: str = WISHES["openai"]) -> httpx.Response:
    """What a browser asks before it sends a page's request."""
    asked = {"access-control-request-method": method, "access-control-request-headers": wishes}
    return httpx.options(f"{one.url}/v1/chat/completions", headers={"origin": origin, **asked})


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway with keys, for the pages of two origins."""
    keys = tmp_path_factory.mktemp("keys") / "keys.yaml"
    keys.write_text(f"keys:\n{entry_for(KEY, 'alice', {})}\n")
    options = {"auth": {"keys_file": str(keys)}, "cors": {"origins": [PAGE, "http://localhost:3000"]}}
    with FakeUpstream() as fake, running(settings_for(fake, **options)) as one:
        fake.answers["/v1/completions"] = stream(delta("a"), DONE)
        yield one


@pytest.mark.parametrize("sdk", WISHES)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_a_preflight_is_answered_without_a_key(guarded: Running, sdk: str, method: str) -> None:
    answer = preflight(guarded, PAGE, method, WISHES[sdk])
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert method in answer.headers["access-control-allow-methods"].split(", ")
    allowed = {name.strip().lower() for name in answer.headers["access-control-allow-headers"].split(",")}
    assert set(WISHES[sdk].split(",")) <= allowed
    assert "access-control-allow-credentials" not in answer.headers
    assert "origin" in answer.headers["vary"].lower()


def test_a_page_may_read_the_answer_and_its_receipts(guarded: Running) -> None:
    answer = guarded.post(BODY | {"stream": True}, headers=ASKING)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    assert set(exposed) == {header.value for header in Header}
    assert "x-wave-context-tokens" in answer.headers


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/v1/completions", {"origin": PAGE}, 401),
        ("/nowhere", ASKING, 404),
        ("/v1/models", ASKING, 405),
        ("/v1/completions", ASKING | {"content-type": "text/plain"}, 415),
    ],
)
def test_a_page_may_read_errors_too(guarded: Running, path: str, headers: dict, status: int) -> None:
    answer = httpx.post(guarded.url + path, json=BODY, headers=headers)
    assert answer.status_code == status
    assert answer.headers["access-control-allow-origin"] == PAGE


@pytest.mark.parametrize("origin", ["https://evil.example", "https://app.example", f"{PAGE}.evil.example", "null"])
def test_other_pages_may_not(guarded: Running, origin: str) -> None:
    assert "access-control-allow-origin" not in preflight(guarded, origin).headers
    answer = guarded.post(BODY, headers=ASKING | {"origin": origin})
    assert "access-control-allow-origin" not in answer.headers


def test_by_default_no_page_may(gateway: Running) -> None:
    assert CorsSettings().origins == ()
    assert preflight(gateway, PAGE).status_code == 405
    answer = gateway.post(BODY, headers={"origin": PAGE})
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_all_pages_may_where_it_is_asked_for(upstream: FakeUpstream) -> None:
    with running(settings_for(upstream, cors={"origins": ["*"], "max_age": 7})) as one:
        answer = preflight(one, "https://any.example")
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")
        assert answer.headers["access-control-max-age"] == "7"
        assert one.post(BODY, headers={"origin": "https://any.example"}).headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    "origin", ["https://app.example/", "app.example", "https://*.example", "https://a@b", "https://a/b", "", "null"]
)
def test_what_no_browser_sends_is_refused(origin: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"file:2:13: cors\.origins\.0: must be"):
        parse_settings(f"cors:\n  origins: ['{origin}']\n", "file")


@pytest.mark.parametrize(
    "origin", ["http://localhost:3000", "https://[::1]:8443", "HTTPS://App.Example", "app://obsidian.md"]
)
def test_what_browsers_and_their_shells_send_is_taken(origin: str) -> None:
    assert parse_settings(f"cors: {{origins: ['{origin}']}}").cors.origins == (origin.lower(),)
