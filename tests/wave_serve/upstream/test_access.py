"""Upstreams that ask for a key, headers or a certificate; and that no secret of theirs is shown anywhere."""

import logging
import ssl
from pathlib import Path

import httpx
import pytest
from helpers.certificates import certify
from helpers.dns_server import dns_server
from helpers.fake_upstream import FakeUpstream, Handler, reply_json
from helpers.running import running, settings_for

from wave_serve.gateway import Gateway
from wave_serve.settings import Settings
from wave_serve.settings.file import SettingsError, parse_settings

SECRET = "canary-0123456789"
ASKED = {"api_key": ("authorization", f"Bearer {SECRET}"), "headers": ("x-team", SECRET)}
MESSAGES = [{"role": "user", "content": "x"}]


def guard(fake: FakeUpstream, header: str, value: str) -> None:
    """Answers 401 at every path but /health to who does not send that header, as a vLLM server with a key does."""

    def guarded(inner: Handler) -> Handler:
        async def handle(connection) -> None:
            let_in = connection.headers.get(header) == value.lower()  # the fake lowers the whole head
            answer = inner if let_in else reply_json({"error": "Unauthorized"}, "401 Unauthorized")
            await answer(connection)

        return handle

    chat = reply_json({"object": "chat.completion", "choices": [{"index": 0, "message": {"role": "assistant"}}]})
    fake.answers |= {"/v1/chat/completions": chat, "/detokenize": reply_json({"prompt": "a"})}
    fake.answers |= {path: guarded(handler) for path, handler in fake.answers.items() if path != "/health"}


def before(fake: FakeUpstream, **access: object) -> Settings:
    """Settings of a gateway before it."""
    return settings_for(fake, upstreams=[{"base_url": fake.url, "models": [fake.model], **access}])


@pytest.mark.parametrize("where", ["env", "file"])
@pytest.mark.parametrize("setting", ASKED)
def test_everything_that_is_asked_of_an_upstream_brings_its_key(
    upstream: FakeUpstream,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    setting: str,
) -> None:
    monkeypatch.setenv("ITS_KEY", SECRET)
    (tmp_path / "key").write_text(f"{SECRET}\n")
    source = "env:ITS_KEY" if where == "env" else f"file:{tmp_path / 'key'}"
    header, value = ASKED[setting]
    guard(upstream, header, value)
    access = {"api_key": source} if setting == "api_key" else {"headers": {"X-Team": source, "X-Other": "plain"}}
    with running(before(upstream, **access)) as one:
        assert one.post({"prompt": "hello", "max_tokens": 5}).status_code == 200
        chat = {"messages": MESSAGES, "max_tokens": 5}
        assert one.post(chat, "/v1/chat/completions").status_code == 200
        assert one.post({"prompt": "hello"}, "/tokenize").status_code == 200
        assert one.post({"tokens": [1]}, "/detokenize").status_code == 200
        assert one.post(chat, "/v1/context").status_code == 200
    assert all(request.headers[header] == value.lower() for request in upstream.requests)


def test_a_clients_own_key_never_reaches_an_upstream(upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ITS_KEY", SECRET)
    guard(upstream, "authorization", f"Bearer {SECRET}")
    with running(before(upstream, api_key="env:ITS_KEY")) as one:
        theirs = {"authorization": "Bearer of-the-client", "x-api-key": "of-the-client"}
        assert one.post({"prompt": "hello", "max_tokens": 5}, headers=theirs).status_code == 200
    assert "of-the-client" not in str(upstream.requests)


def test_a_guarded_upstream_is_said_to_refuse_the_gateway(
    upstream: FakeUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    guard(upstream, "authorization", f"Bearer {SECRET}")
    with caplog.at_level(logging.WARNING), running(before(upstream), ready=False) as one:
        one.wait(503)
        while "answers 401" not in (said := httpx.get(f"{one.url}/ready").json()["error"]["message"]):
            pass
    assert "its /v1/models answers 401; it asks for a key or headers: in the settings, api_key and headers" in said
    assert [record.fields["reason"] for record in caplog.records if record.message == "upstream down"] == [
        "its /v1/models answers 401; it asks for a key or headers: in the settings, api_key and headers of the upstream"
    ]


@pytest.mark.parametrize(("status", "said"), [("404 Not Found", "its /v1/models answers 404"), ("302 Found", "302")])
def test_another_refusal_is_named_by_its_status(upstream: FakeUpstream, status: str, said: str) -> None:
    upstream.answers["/v1/models"] = reply_json({}, status)
    with running(before(upstream), ready=False) as one:
        while said not in httpx.get(f"{one.url}/ready").json()["error"]["message"]:
            pass


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"api_key": "env:UNSET"}, "upstreams.0.api_key: the environment variable UNSET is not set"),
        ({"api_key": "env:EMPTY"}, "upstreams.0.api_key: the environment variable EMPTY is empty"),
        ({"api_key": "env:TWO_LINES"}, "upstreams.0.api_key: the environment variable TWO_LINES holds characters"),
        ({"api_key": "file:/no/such"}, "upstreams.0.api_key: cannot read the file /no/such: No such file or directory"),
        ({"headers": {"x-a": "file:/"}}, "upstreams.0.headers.x-a: cannot read the file /: Is a directory"),
        ({"headers": {"x-a": "b\r\nc: d"}}, "upstreams.0.headers.x-a: the value holds characters"),
        ({"ca_file": "/no/ca"}, "upstreams.0.ca_file: cannot use /no/ca: No such file or directory"),
        ({"ca_file": "/dev/null"}, "upstreams.0.ca_file: cannot use /dev/null: "),
        (
            {"client_certificate": "/no/c"},
            "upstreams.0.client_certificate: cannot use /no/c: No such file or directory",
        ),
    ],
)
def test_what_cannot_be_read_is_named_before_anything_is_served(
    monkeypatch: pytest.MonkeyPatch, entry: dict, said: str
) -> None:
    monkeypatch.delenv("UNSET", raising=False)
    monkeypatch.setenv("EMPTY", " \n")
    monkeypatch.setenv("TWO_LINES", f"{SECRET}\n{SECRET}")
    settings = Settings.model_validate(
        {"models": {"m": {}}, "upstreams": [{"base_url": "https://h", "models": ["m"], **entry}]}
    )
    with pytest.raises(SettingsError) as caught:
        Gateway(settings)
    assert str(caught.value).startswith(said)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (f"api_key: {SECRET}", "api_key: a secret does not stand here itself: give env:NAME (a variable) or file:PATH"),
        ("api_key: 'env:'", "api_key: a secret does not stand here itself"),
        ("api_key: 1234567890", "api_key: a secret does not stand here itself"),
        (f"api_key: [{SECRET}]", "api_key: a secret does not stand here itself"),
        (f"headers: {{Authorization: Bearer {SECRET}}}", "headers.authorization holds a secret: give env:NAME"),
        (f"headers: {{X-API-Key: {SECRET}}}", "headers.x-api-key holds a secret"),
        (f"headers: {{x-auth-token: {SECRET}}}", "headers.x-auth-token holds a secret"),
        ("headers: {x-a: 1234567890}", "headers.x-a: must be a text"),
        (f"headers: {{'x a': {SECRET}}}", "headers"),
        ("headers: {content-length: '5'}", "headers.content-length is not the upstream's own"),
        (
            "headers: {authorization: env:A}\n    api_key: env:A",
            "headers.authorization and api_key are the same",
        ),
        ("ca_file: /x", "ca_file needs a base_url with https"),
        ("client_certificate: /x", "client_certificate needs a base_url with https"),
        ("client_key: /x", "client_key needs client_certificate beside it"),
    ],
)
def test_a_mistake_is_named_and_no_secret_shown(entry: str, said: str) -> None:
    text = f"models: {{m: {{}}}}\nupstreams:\n  - base_url: http://h\n    models: [m]\n    {entry}\n"
    with pytest.raises(SettingsError) as caught:
        parse_settings(text, "file")
    assert said in str(caught.value)
    assert SECRET not in str(caught.value)
    assert "1234567890" not in str(caught.value)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of them."""
    directory = tmp_path_factory.mktemp("certificates")
    certify(directory)
    return directory


def tls(certificates: Path, *, asks: bool) -> ssl.SSLContext:
    """That of a server which may ask for its client's certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates / "ca.pem")
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED if asks else ssl.CERT_NONE
    return context


@pytest.mark.parametrize(
    "files",
    [{}, {"client_certificate": "client.pem", "client_key": "client.key"}, {"client_certificate": "both.pem"}],
    ids=["authority", "certificate and key", "both in one file"],
)
def test_an_upstream_with_its_own_authority(certificates: Path, files: dict[str, str]) -> None:
    access = {"ca_file": "ca.pem", **files}
    given = {name: str(certificates / file) for name, file in access.items()}
    with FakeUpstream(tls=tls(certificates, asks=bool(files))) as fake, running(before(fake, **given)) as one:
        assert one.post({"prompt": "hello", "max_tokens": 5}).status_code == 200


def test_an_upstream_that_nobody_vouches_for_is_not_asked(certificates: Path) -> None:
    with FakeUpstream(tls=tls(certificates, asks=False)) as fake, running(before(fake), ready=False) as one:
        while "certificate" not in httpx.get(f"{one.url}/ready").json()["error"]["message"]:
            pass
    assert fake.requests == []


@pytest.mark.parametrize(("name", "status"), [("engines.test", 200), ("other.test", 503)])
def test_a_server_found_by_its_address_has_to_be_certified_for_the_name(
    certificates: Path, name: str, status: int
) -> None:
    records = {(f"{each}.test.", "A"): ["127.0.0.2"] for each in ("engines", "other")}
    with dns_server(records) as names, FakeUpstream(host="0.0.0.0", tls=tls(certificates, asks=False)) as fake:  # noqa: S104
        entry = {"dns": f"https://{name}:{fake.port}", "models": ["fake"], "ca_file": str(certificates / "ca.pem")}
        settings = settings_for(fake, upstreams=[entry], discovery={"every": 0.1, "nameserver": names.address})
        with running(settings, ready=False) as one:
            while "not looked at yet" in (said := httpx.get(f"{one.url}/ready").text) or "looked up yet" in said:
                pass
            assert httpx.get(f"{one.url}/ready").status_code == status
            assert ("certificate" in said) == (status == 503)
