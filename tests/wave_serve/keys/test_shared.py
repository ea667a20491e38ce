"""Limits of several gateways together, in a real Redis: exact to one request, and what happens while it is away."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from helpers.certificates import certify
from helpers.fake_upstream import FakeUpstream
from helpers.redis_server import RedisServer, needs_redis, redis_server
from helpers.running import Running, running, settings_for
from helpers.served import free_port

from wave_serve.errors import ApiError
from wave_serve.keys.file import ApiKey, digest
from wave_serve.keys.shared import SharedLimits
from wave_serve.settings import LimitsSettings

pytestmark = needs_redis
ALICE = "sk-wave-alice-canary"
BODY = {"model": "fake", "prompt": "hello", "max_tokens": 5}


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as one:
        yield one


@pytest.fixture
def store(server: RedisServer, request: pytest.FixtureRequest) -> dict:
    """Settings of a store that only this test uses; generous, since the machine may be busy."""
    return {"store": server.url, "prefix": f"test:{abs(hash(request.node.nodeid))}", "deadline": 5.0}


def key(**limits: int) -> ApiKey:
    return ApiKey(name="alice", sha256=digest(ALICE), **limits)


def with_gateways(count: int, store: dict, work: Callable[..., Awaitable[None]]) -> None:
    """Runs `work` with the limits of so many gateways."""

    async def run() -> None:
        gateways = [SharedLimits(LimitsSettings(**store)) for _ in range(count)]
        try:
            await work(*gateways)
        finally:
            for one in gateways:
                await one.close()

    asyncio.run(run())


async def until_let_in(limits: SharedLimits, alice: ApiKey) -> None:
    """Returns once a request of the key is counted."""
    refused: str | None = "not asked yet"
    while refused is not None:
        refused = await refusal(limits.account(alice).enter())
        await asyncio.sleep(0.02)


async def refusal(work: Awaitable[None]) -> str | None:
    """The code that refuses it."""
    try:
        await work
    except ApiError as error:
        return error.code
    return None


def test_two_gateways_let_through_exactly_what_a_key_may_ask_in_a_minute(store: dict) -> None:
    async def work(first: SharedLimits, second: SharedLimits) -> None:
        alice = key(requests_per_minute=2)  # one in half a minute: none is gained meanwhile
        found = await asyncio.gather(
            *(refusal(limits.account(alice).enter()) for _ in range(20) for limits in (first, second))
        )
        assert Counter(found) == {None: 2, "rate_limit_exceeded": 38}

    with_gateways(2, store, work)


def test_a_refusal_says_how_long_to_wait_and_headers_what_is_left_everywhere(store: dict) -> None:
    async def work(first: SharedLimits, second: SharedLimits) -> None:
        alice = key(requests_per_minute=2, tokens_per_minute=100)
        one, other = first.account(alice), second.account(alice)
        assert one.headers() == {}
        await one.enter()
        assert one.headers()["x-ratelimit-remaining-requests"] == "1"
        await one.spend(60)
        await other.enter()
        assert other.headers()["x-ratelimit-remaining-requests"] == "0"
        assert 40 <= int(other.headers()["x-ratelimit-remaining-tokens"]) < 45
        with pytest.raises(ApiError) as caught:
            await other.spend(99)
        assert 20 < int(caught.value.headers["retry-after"]) <= 36
        with pytest.raises(ApiError, match="more than the key alice may use") as caught:
            await other.spend(101)
        assert caught.value.headers["x-should-retry"] == "false"
        one.leave(60)  # no upstream worked on it
        await first.close()
        await other.spend(90)
        await other.charge(200)
        assert other.headers()["x-ratelimit-remaining-tokens"] == "0"
        assert await refusal(second.account(alice).check()) == "rate_limit_exceeded"

    with_gateways(2, store, work)


def test_concurrency_holds_over_gateways_and_frees_what_ended(store: dict) -> None:
    async def work(first: SharedLimits, second: SharedLimits) -> None:
        alice = key(concurrency=2)
        running = [first.account(alice), second.account(alice)]
        for one in running:
            await one.enter()
        assert await refusal(first.account(alice).enter()) == "concurrency_limit_exceeded"
        running[0].leave(0)
        await first.close()
        assert await refusal(second.account(alice).enter()) is None
        assert await refusal(second.account(alice).enter()) == "concurrency_limit_exceeded"

    with_gateways(2, store, work)


def test_what_a_killed_gateway_ran_ends_with_its_lease_and_what_runs_keeps_its_place(store: dict) -> None:
    async def work(killed: SharedLimits, alive: SharedLimits) -> None:
        alice = key(concurrency=2)
        await killed.account(alice).enter()
        await alive.account(alice).enter()
        assert await refusal(alive.account(alice).enter()) == "concurrency_limit_exceeded"
        await killed.close()  # which renews nothing from now on, and has not told that its request ended
        await until_let_in(alive, alice)
        await asyncio.sleep(2 * store_lease)  # the lease of what runs was renewed meanwhile
        assert await refusal(alive.account(alice).enter()) == "concurrency_limit_exceeded"

    store_lease = 0.6
    with_gateways(2, store | {"lease": store_lease}, work)


def test_a_request_whose_client_leaves_while_it_is_counted_keeps_no_place(store: dict) -> None:
    async def work(limits: SharedLimits) -> None:
        alice = key(concurrency=1)
        for _ in range(20):
            entering = asyncio.create_task(limits.account(alice).enter())
            await asyncio.sleep(0)
            entering.cancel()
            await asyncio.gather(entering, return_exceptions=True)
        await until_let_in(limits, alice)

    with_gateways(1, store, work)


def test_what_was_used_stays_used_under_another_limit(store: dict) -> None:
    async def work(limits: SharedLimits) -> None:
        await limits.account(key(tokens_per_minute=100)).spend(70)
        wider = limits.account(key(tokens_per_minute=1000))
        await wider.charge(0)
        assert await refusal(wider.spend(1000)) == "rate_limit_exceeded"
        assert await refusal(wider.spend(930)) is None

    with_gateways(1, store, work)


@pytest.mark.parametrize(("policy", "refused"), [("refuse", "limits_unavailable"), ("pass", None)])
def test_a_store_that_is_away_refuses_or_passes_and_never_hangs(
    policy: str, refused: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(limits: SharedLimits) -> None:
        alice = key(requests_per_minute=2, tokens_per_minute=100, concurrency=5)
        assert await refusal(limits.account(alice).enter()) is None
        server.pause()
        found = await asyncio.gather(*(refusal(limits.account(alice).enter()) for _ in range(50)))
        assert set(found) == {refused}
        assert not limits.store.up
        server.resume()
        while not limits.store.up:
            await refusal(limits.account(alice).check())
            await asyncio.sleep(0.02)
        # Answers to questions that were given up are not taken for those of later ones.
        for _ in range(20):
            account = limits.account(alice)
            await account.check()
            assert account.headers()["x-ratelimit-remaining-tokens"] == "100"
        server.kill()
        assert await refusal(limits.account(alice).spend(50)) == refused
        assert await refusal(limits.account(alice).spend(50)) == refused
        server.start()
        while not limits.store.up:
            await refusal(limits.account(alice).check())
            await asyncio.sleep(0.02)
        assert await refusal(limits.account(alice).spend(100)) is None

    with redis_server() as server, caplog.at_level(logging.INFO, "wave_serve.limits"):
        with_gateways(1, {"store": server.url, "when_down": policy, "deadline": 0.3, "retry": 0.2}, work)
    told = [(record.getMessage(), record.fields.get("requests")) for record in caplog.records]
    down, again = ("store of limits is down", policy), ("store of limits answers again", None)
    assert told == [down, again, down, again]


@pytest.mark.parametrize(("password", "refused"), [("canary-right", None), ("canary-wrong", "limits_unavailable")])
def test_a_password_opens_the_store_and_is_never_shown(
    password: str, refused: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(limits: SharedLimits) -> None:
        assert await refusal(limits.account(key(requests_per_minute=1)).enter()) == refused

    monkeypatch.setenv("STORE_PASSWORD", password)
    with redis_server("--requirepass", "canary-right") as server, caplog.at_level(logging.DEBUG):
        with_gateways(1, {"store": server.url, "password": "env:STORE_PASSWORD", "deadline": 5.0}, work)
    told = [record.fields["reason"] for record in caplog.records if hasattr(record, "fields")]
    assert len(told) == (refused is not None)
    assert "canary" not in str([vars(record) for record in caplog.records])


@pytest.mark.parametrize(("known", "refused"), [(True, None), (False, "limits_unavailable")])
def test_a_store_with_tls_has_to_be_vouched_for(known: bool, refused: str | None, tmp_path: Path) -> None:
    async def work(limits: SharedLimits) -> None:
        assert await refusal(limits.account(key(requests_per_minute=1)).enter()) == refused

    certify(tmp_path)
    port = free_port()
    files = [f"--tls-{name}-file" for name in ("cert", "key", "ca-cert")]
    named = zip(files, ("server.pem", "server.key", "ca.pem"), strict=True)
    options = [part for option, file in named for part in (option, str(tmp_path / file))]
    settings = {"store": f"rediss://127.0.0.1:{port}/1", "deadline": 5.0}
    if known:
        settings["ca_file"] = str(tmp_path / "ca.pem")
    with redis_server("--tls-port", str(port), "--tls-auth-clients", "no", *options):
        with_gateways(1, settings, work)


@pytest.fixture
def two(upstream: FakeUpstream, store: dict, tmp_path: Path) -> Iterator[list[Running]]:
    """Two gateways before one upstream, with one key of 3 requests a minute and 2 at the same time."""
    keys = tmp_path / "keys.yaml"
    keys.write_text(f"keys: [{{name: alice, sha256: {digest(ALICE)}, requests_per_minute: 3, concurrency: 2}}]\n")
    with ExitStack() as stack:
        settings = settings_for(upstream, limits=store, auth={"keys_file": str(keys)})
        yield [stack.enter_context(running(settings)) for _ in range(2)]


def test_two_gateways_answer_a_key_as_one_would(two: list[Running], upstream: FakeUpstream) -> None:
    headers = {"authorization": f"Bearer {ALICE}"}
    answers = [one.post(BODY, headers=headers) for _ in range(4) for one in two]
    assert Counter(answer.status_code for answer in answers) == {200: 3, 429: 5}
    assert upstream.generations == 3
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["2", "1", *["0"] * 6]
    assert answers[-1].json()["error"]["code"] == "rate_limit_exceeded"
    assert "wave_limits_store_up 1.0" in httpx.get(f"{two[0].url}/metrics", headers=headers).text
