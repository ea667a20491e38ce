"""Where the page at / is served, and under which policy."""

import re
from pathlib import Path

import httpx
import pytest
from helpers.fake_upstream import FakeUpstream
from helpers.running import running, settings_for

from wave_serve.api.page.route import is_on
from wave_serve.gateway import Gateway
from wave_serve.keys.file import entry_for, load_keys

KEY = "sk-wave-0123456789abcdef0123456789abcdef"


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    """Settings of a gateway that asks for keys."""
    file = tmp_path / "keys.yaml"
    file.write_text(f"keys:\n{entry_for(KEY, 'alice', {})}\n")
    return {"keys_file": str(file)}


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "0.0.0.0", "192.0.2.1"])  # noqa: S104 - compared only
@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("wanted", [None, True, False])
def test_it_is_served_where_only_this_machine_comes_without_keys_unless_the_setting_says_otherwise(
    upstream: FakeUpstream, keys: dict, host: str, guarded: bool, wanted: bool | None
) -> None:
    auth = keys if guarded else {}
    open_here = host in ("127.0.0.1", "::1", "localhost") and not guarded
    gateway = Gateway(settings_for(upstream, host=host, auth=auth, page=wanted))
    assert is_on(gateway) == (open_here if wanted is None else wanted)


def test_where_it_is_off_its_url_is_unknown(upstream: FakeUpstream) -> None:
    with running(settings_for(upstream, page=False)) as one:
        answer = httpx.get(one.url)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")


def test_head_tells_an_agent_that_asks_whether_anybody_is_there(upstream: FakeUpstream) -> None:
    with running(settings_for(upstream)) as one:
        answer = httpx.head(one.url)
    assert (answer.status_code, answer.content) == (200, b"")


def test_it_goes_when_a_reload_brings_keys(upstream: FakeUpstream, keys: dict) -> None:
    with running(settings_for(upstream)) as one:
        assert httpx.get(one.url).status_code == 200
        guarded = settings_for(upstream, auth=keys)
        one.gateway.apply(guarded, load_keys(guarded.auth.keys_file, guarded.models))
        assert httpx.get(one.url).status_code == 404


def test_it_may_run_its_own_script_only_and_reach_this_gateway_only(upstream: FakeUpstream) -> None:
    with running(settings_for(upstream)) as one:
        answer = httpx.get(one.url)
    policy = dict(each.strip().split(" ", 1) for each in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"
    for directive in ("script-src", "style-src"):
        assert re.fullmatch(r"'sha256-[A-Za-z0-9+/]{43}='", policy[directive])
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "http://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in answer.text
