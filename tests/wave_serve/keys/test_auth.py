"""Who may ask for what: keys from file and environment, and what each may do."""

import asyncio
import hashlib
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from helpers.fake_upstream import DONE, FakeUpstream, delta, reply_json, stream
from helpers.running import Running, running, settings_for
from typer.testing import CliRunner

from wave_serve.cli import keys as keys_cli
from wave_serve.keys.file import ENVIRONMENT, ApiKey, digest, entry_for, load_keys, new_key, parse_keys
from wave_serve.keys.limits import Limits
from wave_serve.keys.use import KeyUse
from wave_serve.settings.file import SettingsError

BODY = {"model": "fake", "prompt": "hello", "max_tokens": 5}
ALICE, BOB, TINY = "sk-wave-canary-alice-0123456789abcdef", "sk-wave-canary-bob", "sk-wave-canary-tiny"


def entry(name: str, key: str, **limits: object) -> dict:
    return {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest(), **limits}


def write(path: Path, *lines: str, tiers: str = "{}") -> Path:
    path.write_text(f"tiers: {tiers}\nkeys:\n" + "\n".join(lines) + "\n")
    return path


def bearer(key: str) -> dict:
    return {"headers": {"authorization": f"Bearer {key}"}}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return write(
        tmp_path / "keys.yaml",
        entry_for(ALICE, "alice", {}),
        entry_for(TINY, "tiny", {"max_context": 20}),
    )


@pytest.fixture
def guarded(upstream: FakeUpstream, keys: Path) -> Iterator[Running]:
    with running(settings_for(upstream, auth={"keys_file": str(keys)})) as one:
        yield one


@pytest.mark.parametrize("header", ["x-api-key", "api-key", "X-Api-Key"])
def test_so_does_it_in_the_headers_of_other_apis(guarded: Running, header: str) -> None:
    assert guarded.post(BODY, headers={header: ALICE}).status_code == 200
    assert guarded.post(BODY, headers={header: ALICE, "authorization": "Basic dXNlcjpwYXNz"}).status_code == 200
    assert guarded.post(BODY, headers={header: ALICE, "authorization": "Bearer"}).status_code == 200
    for given, code in ((BOB, "invalid_api_key"), ("", "missing_api_key"), (f"Bearer {ALICE}", "invalid_api_key")):
        answer = guarded.post(BODY, headers={header: given})
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, code)


def test_a_bearer_token_goes_before_the_other_headers(guarded: Running) -> None:
    for theirs in ({"x-api-key": BOB}, {"api-key": BOB}, {"x-api-key": BOB, "api-key": BOB}):
        assert guarded.post(BODY, headers={"authorization": f"Bearer {ALICE}", **theirs}).status_code == 200
        wrong = dict.fromkeys(theirs, ALICE) | {"authorization": f"Bearer {BOB}"}
        assert guarded.post(BODY, headers=wrong).status_code == 401


def test_a_key_of_the_file_opens_the_gateway(guarded: Running) -> None:
    assert guarded.post(BODY, **bearer(ALICE)).status_code == 200
    assert guarded.post(BODY, headers={"authorization": f"bearer  {ALICE}"}).status_code == 200
    with openai.OpenAI(base_url=f"{guarded.url}/v1", api_key=ALICE) as client:
        assert client.models.list().data[0].id == "fake"


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        (None, "missing_api_key"),
        ("", "missing_api_key"),
        ("Bearer", "missing_api_key"),
        (f"Basic {ALICE}", "invalid_api_key"),
        ("Bearer sk-wave-other", "invalid_api_key"),
        (f"Bearer {ALICE[:-1]}", "invalid_api_key"),
        (f"Bearer {digest(ALICE)}", "invalid_api_key"),
        ("Bearer \udcff\udcfe", "invalid_api_key"),
    ],
)
def test_anything_else_is_a_401(guarded: Running, authorization: str | None, code: str) -> None:
    headers = [] if authorization is None else [(b"authorization", authorization.encode("utf-8", "surrogateescape"))]
    for method, path in (("POST", "/v1/completions"), ("GET", "/v1/models"), ("POST", "/tokenize")):
        answer = httpx.request(method, guarded.url + path, headers=headers)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == code
        assert answer.json()["error"]["type"] == "authentication_error"
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["x-request-id"]


def test_the_sdk_sees_its_own_error_classes(upstream: FakeUpstream, tmp_path: Path) -> None:
    keys = write(tmp_path / "keys.yaml", entry_for(BOB, "bob", {"models": ["other"]}))
    models = {"fake": {"train_length": 100}, "other": {}}
    upstreams = [{"base_url": upstream.url, "models": ["fake"]}, {"base_url": upstream.url, "models": ["other"]}]
    settings = settings_for(upstream, models=models, upstreams=upstreams, auth={"keys_file": str(keys)})
    with running(settings) as one:
        for key, model, error in (
            (ALICE, "fake", openai.AuthenticationError),
            (BOB, "fake", openai.PermissionDeniedError),
        ):
            with openai.OpenAI(base_url=f"{one.url}/v1", api_key=key) as client, pytest.raises(error):
                client.completions.create(model=model, prompt="hello", max_tokens=5)
        shown = httpx.get(f"{one.url}/v1/models", **bearer(BOB)).json()["data"]
        assert [card["id"] for card in shown] == ["other"]
        assert httpx.get(f"{one.url}/v1/models/fake", **bearer(BOB)).json()["error"]["code"] == "model_not_allowed"
        unknown = one.post(BODY | {"model": "third"}, **bearer(BOB))
        assert (unknown.status_code, "fake" in unknown.text) == (404, False)


def test_no_body_is_read_for_who_may_not_ask(guarded: Running) -> None:
    def parts() -> Iterator[bytes]:
        yield b"{"
        raise AssertionError("the answer waits for the body")

    with httpx.Client() as client, pytest.raises(AssertionError):
        client.post(f"{guarded.url}/v1/completions", content=parts())
    big = httpx.post(f"{guarded.url}/v1/completions", content=b"x" * 5_000_000)
    assert big.status_code == 401


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
        ("/v1/responses", {"input": "x"}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 5}),
        ("/tokenize", {"prompt": "x"}),
        ("/detokenize", {"tokens": [65]}),
    ],
)
def test_a_body_without_a_model_asks_the_engine_for_the_keys_own(
    tmp_path: Path, upstream: FakeUpstream, path: str, body: dict
) -> None:
    """vLLM answers such a body by its base model, which this key may not use."""
    models = [{"id": "base", "max_model_len": 1000}, {"id": "adapter", "parent": "base"}]
    upstream.answers["/v1/models"] = reply_json({"data": models})
    keys = write(tmp_path / "keys.yaml", entry_for(BOB, "bob", {"models": ["adapter"]}))
    served = [{"base_url": upstream.url, "models": ["base", "adapter"]}]
    settings = settings_for(
        upstream, models={"base": {}, "adapter": {}}, upstreams=served, auth={"keys_file": str(keys)}
    )
    with running(settings) as one:
        one.post(body, path, **bearer(BOB))
    sent = next(json.loads(request.body) for request in upstream.requests if request.path == path)
    assert sent["model"] == "adapter"


def test_a_keys_own_cap_lowers_the_models(guarded: Running) -> None:
    assert guarded.post(BODY, **bearer(TINY)).status_code == 200
    long = BODY | {"prompt": "x" * 30}
    assert guarded.post(long, **bearer(ALICE)).status_code == 200
    assert guarded.post(long, **bearer(TINY)).json()["error"]["code"] == "context_length_exceeded"


def test_probes_are_open_and_metrics_and_docs_by_option(upstream: FakeUpstream, keys: Path) -> None:
    for protect, status in ((False, 200), (True, 401)):
        auth = {"keys_file": str(keys), "protect_metrics": protect, "protect_docs": protect}
        with running(settings_for(upstream, auth=auth)) as one:
            for path in ("/metrics", "/docs", "/openapi.json"):
                assert httpx.get(one.url + path).status_code == status
                assert httpx.get(one.url + path, **bearer(ALICE)).status_code == 200
            for path in ("/health", "/ready"):
                assert httpx.get(one.url + path).status_code == 200


def test_keys_of_the_environment_work_beside_those_of_the_file(
    upstream: FakeUpstream, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = new_key(), new_key()
    monkeypatch.setenv(ENVIRONMENT, f"{first}, {second}")
    for auth, others in (({"keys_file": str(keys)}, [ALICE]), ({}, [])):
        with running(settings_for(upstream, auth=auth)) as one:
            for key in (first, second, *others):
                assert one.post(BODY, **bearer(key)).status_code == 200
            assert one.post(BODY).status_code == 401


def test_a_short_key_of_the_environment_is_refused_without_showing_it() -> None:
    with pytest.raises(SettingsError, match="key 2 has 6 characters, at least 32 are needed") as caught:
        load_keys(None, [], {ENVIRONMENT: f"{new_key()},secret"})
    assert "secret" not in str(caught.value)


def test_new_keys_differ_and_their_entries_are_valid() -> None:
    keys = {new_key() for _ in range(50)}
    assert len(keys) == 50
    assert all(re.fullmatch(r"sk-wave-[\w-]{43}", key) for key in keys)
    limits = {"models": ["m"], "requests_per_minute": 7, "max_context": 9, "tier": None}
    (found,) = parse_keys("keys:\n" + entry_for(ALICE, "null", limits), ["m"])
    assert (found.name, found.models, found.requests_per_minute, found.max_context) == ("null", ("m",), 7, 9)
    assert found.sha256 == hashlib.sha256(ALICE.encode()).hexdigest()


def test_the_command_prints_a_key_once_and_an_entry_that_lets_it_in() -> None:
    arguments = ["new", "--name", "alice", "--model", "m", "--concurrency", "3", "--tier", "gold"]
    said = CliRunner().invoke(keys_cli.app, arguments).stdout
    (key,) = re.findall(r"sk-wave-[\w-]+", said)
    entries = [line for line in said.splitlines() if line.startswith("  - ")]
    (found,) = parse_keys("tiers: {gold: {max_context: 7}}\nkeys:\n" + entries[0], ["m"])
    assert (found.name, found.sha256, found.models, found.concurrency) == ("alice", digest(key), ("m",), 3)
    assert found.max_context == 7


def test_the_command_refuses_a_name_that_the_file_would_refuse() -> None:
    result = CliRunner().invoke(keys_cli.app, ["new", "--name", "not a name"])
    assert result.exit_code == 2
    assert "sk-wave" not in result.output


def test_a_keys_own_limits_override_those_of_its_tier() -> None:
    tiers = "{free: {max_context: 100, concurrency: 2, models: [m]}}"
    text = f"tiers: {tiers}\nkeys:\n" + entry_for(ALICE, "alice", {"tier": "free", "concurrency": 9})
    (found,) = parse_keys(text, ["m"])
    assert (found.max_context, found.concurrency, found.models) == (100, 9, ("m",))


GOOD = entry_for(ALICE, "alice", {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "keys:1:1: keys is required"),
        ("keys: []", "keys:1:1: keys: "),
        (f"keys:\n  - {{name: alice, sha256: {ALICE}}}", "keys:2:19: keys.0.sha256: String should match pattern"),
        (f"keys:\n  - {{name: alice, key: {ALICE}}}", "keys:2:19: unknown key in keys.0; known are: models, "),
        (f"keys:\n  - {{name: alice, {ALICE}: 1}}", "keys:2:19: unknown key in keys.0"),
        (f"keys:\n{GOOD}\n{GOOD}", "keys:3:6: keys.1.name is the same as that of keys.0"),
        (f"keys:\n{GOOD}\n{GOOD.replace('alice', 'bob')}", "keys.1.sha256 is the same as that of keys.0"),
        ("keys:\n" + GOOD[:-1] + ",\n    tier: gold}", "keys:3:5: keys.0.tier: 'gold' is not described"),
        ("keys:\n" + GOOD[:-1] + ",\n    models: [n]}", "keys:3:5: keys.0.models: no such model is served"),
        ("keys:\n" + GOOD[:-1] + ",\n    concurrency: 0}", "keys:3:5: keys.0.concurrency: Input should be"),
        (f"keys:\n  - *{ALICE}", "keys:2:5: not valid YAML: found undefined alias"),
        (f"keys:\n  - {{name: '{ALICE}", "not valid YAML"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_line_but_never_a_value(text: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_keys(text, ["m"])
    assert said in str(caught.value)
    assert "canary" not in str(caught.value)


def test_no_key_is_logged_or_measured(
    guarded: Running, upstream: FakeUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    upstream.answers["/v1/completions"] = stream(delta("x"), DONE)
    with caplog.at_level(logging.DEBUG, "wave_serve"):
        guarded.post(BODY | {"stream": True}, **bearer(ALICE))
        guarded.post(BODY, **bearer("sk-wave-canary-wrong"))
    assert [record.fields["key"] for record in caplog.records if record.fields.get("stream")] == ["alice"]
    everything = str([vars(record) for record in caplog.records]) + httpx.get(f"{guarded.url}/metrics").text
    assert "canary" not in everything
    assert digest(ALICE) not in everything
    assert not [request for request in upstream.requests if "authorization" in request.headers]


def test_a_request_ends_well_though_its_key_was_removed_meanwhile() -> None:
    key = ApiKey(name="alice", sha256=digest(ALICE), tokens_per_minute=100)
    limits = Limits([key])
    use = KeyUse(key, limits)
    asyncio.run(use.begin())
    limits.replace([])
    asyncio.run(use.spend(40))
    assert use.headers()["x-ratelimit-remaining-tokens"] == "60"
    use.end(worked_on=True)
