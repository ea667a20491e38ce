"""Several upstreams: which one gets a request, and what happens when it fails."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest
from helpers.fake_upstream import DONE, Connection, FakeUpstream, delta, hang_up, reply, reply_json, stream
from helpers.running import Running, running, settings_for

from wave_serve.routing.prefixes import DEEPEST, SHALLOWEST, PrefixMemory, prefixes_of
from wave_serve.routing.router import RECENT_HEAD_START, Demand, Router
from wave_serve.settings import RoutingSettings, TimeoutSettings
from wave_serve.upstream.ejection import Ejection
from wave_serve.upstream.upstream import Upstream

BODY = {"model": "fake", "prompt": "hello", "max_tokens": 5}
OK = reply_json({"object": "text_completion", "choices": [{"index": 0, "text": "ok"}]})


def make_upstreams(count: int) -> list[Upstream]:
    return [Upstream(f"http://127.0.0.1:{port}", ("m",), TimeoutSettings()) for port in range(1, count + 1)]


def text(seed: object, length: int) -> str:
    return "".join(random.Random(str(seed)).choices("abcdefgh ", k=length))


class Bench:
    """A router that is asked for whole prompts; a token is a byte, and nothing stays outstanding unless told."""

    def __init__(self, upstreams: int = 2, **settings: float) -> None:
        self.upstreams = make_upstreams(upstreams)
        self.now = 0.0
        self.router = Router(RoutingSettings(**settings), lambda: self.now)

    def send(self, prompt: str, *, free: list[Upstream] | None = None) -> Upstream:
        demand = Demand(len(prompt), "", self.upstreams, prefixes_of("m", {"prompt": prompt}))
        return self.router.choose(demand, free or self.upstreams, self.upstreams)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"prompt": text(1, 9000) + "one"}, {"prompt": text(1, 9000) + "two and more"}),
        ({"prompt": [*range(4000), 1]}, {"prompt": [*range(4000), 2, 3]}),
        ({"prompt": [[*range(4000), 1], [7]]}, {"prompt": [*range(4000), 2]}),
        ({"prompt": ["é" * 3000 + "x"]}, {"prompt": "é" * 3000 + "y"}),
        (
            {"messages": [{"role": "user", "content": text(1, 5000)}], "stream": True},
            {
                "temperature": 0,
                "messages": [
                    {"role": "user", "content": text(1, 5000)},
                    {"role": "assistant", "content": "a"},
                    {"role": "user", "content": "b"},
                ],
            },
        ),
        (
            {"system": text(1, 5000), "messages": [{"role": "user", "content": "one"}]},
            {"system": text(1, 5000), "messages": [{"role": "user", "content": "two and more"}]},
        ),
        (
            {"instructions": text(1, 5000), "input": "one"},
            {"instructions": text(1, 5000), "input": [{"role": "user", "content": "two"}]},
        ),
    ],
    ids=["text", "ids", "one of several", "not ASCII", "chat", "Anthropic's messages", "response"],
)
def test_prompts_that_begin_alike_share_digests_of_most_of_what_they_share(first: dict, second: dict) -> None:
    one, other = prefixes_of("m", first), prefixes_of("m", second)
    shared = [length for length, digest in one.digests if (length, digest) in other.digests]
    assert max(shared) >= 0.75 * min(one.size, other.size)
    assert not set(one.digests) & set(prefixes_of("n", first).digests), "another model has another cache"


def test_prompts_that_differ_early_or_are_short_share_nothing() -> None:
    one = prefixes_of("m", {"prompt": "a" + text(1, 9000)})
    assert not set(one.digests) & set(prefixes_of("m", {"prompt": "b" + text(1, 9000)}).digests)
    assert prefixes_of("m", {"prompt": "x" * (SHALLOWEST - 1)}).digests == ()
    assert prefixes_of("m", {"prompt": [2**70]}).digests == ()
    assert prefixes_of("m", {"messages": [{"content": "\ud800" * 300, "n": None}] * 2}).size > SHALLOWEST
    assert prefixes_of("m", {}).digests == ()


@pytest.mark.parametrize(
    "payload",
    [
        {"prompt": "x" * (5 * DEEPEST)},
        {"prompt": [7] * DEEPEST},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x" * (5 * DEEPEST)}]}]},
        {"messages": [{"role": "user", "content": "x" * (DEEPEST // 3)}] * 9},
    ],
    ids=["text", "ids", "one message", "messages"],
)
def test_no_more_of_a_huge_prompt_is_looked_at_than_a_mebibyte(payload: dict) -> None:
    found = prefixes_of("m", payload)
    assert found.size == found.digests[-1][0] == DEEPEST


def test_the_memory_is_bounded_and_forgets_what_was_not_used() -> None:
    one, two = make_upstreams(2)
    memory = PrefixMemory(100)
    kept = prefixes_of("m", {"prompt": text("kept", 2000)})
    for number in range(200):
        memory.note(prefixes_of("m", {"prompt": text(number, 2000)}), one)
        memory.note(kept, two)
        assert len(memory) <= 100
    assert memory.longest(kept, [one, two])[1] == [two]
    assert memory.longest(prefixes_of("m", {"prompt": text(0, 2000)}), [one, two]) == (0, [])


def test_a_document_is_forgotten_with_the_life_of_the_engine_that_cached_it() -> None:
    one, two = make_upstreams(2)
    memory = PrefixMemory(100)
    document = prefixes_of("m", {"prompt": text(1, 2000)})
    memory.note(document, one)
    one.life += 1
    assert memory.longest(document, [one, two]) == (0, [])


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("grouped", [False, True])
def test_40_questions_about_8_documents_find_them_and_stay_even(seed: int, grouped: bool) -> None:
    bench = Bench()
    questions = [(document, question) for document in range(8) for question in range(5)]
    if not grouped:
        random.Random(seed).shuffle(questions)
    system = text("system", 800)
    cached: set[tuple[int, str]] = set()
    hits, share = 0, Counter[str]()
    for document, question in questions:
        bench.now += 1.0
        prompt = system + text((seed, document), 6000 + 300 * document) + text((document, question), 60)
        upstream = bench.send(prompt).base_url
        hits += (document, upstream) in cached
        cached.add((document, upstream))
        share[upstream] += len(prompt)
    assert hits >= 0.8 * 32
    assert max(share.values()) <= 1.5 * sum(share.values()) / 2


@pytest.mark.parametrize("upstreams", [2, 3, 5])
@pytest.mark.parametrize("part", [0.1, 0.4, 0.7, 0.95])
def test_a_shared_system_prompt_does_not_send_everything_to_one(upstreams: int, part: float) -> None:
    bench = Bench(upstreams)
    share: Counter[str] = Counter()
    system = text("system", int(20_000 * part))
    for number in range(40):
        bench.now += 0.5
        share[bench.send(system + text(number, 20_000 - len(system))).base_url] += 1
    assert max(share.values()) <= 1.5 * 40 / upstreams + (0 if upstreams == 2 else RECENT_HEAD_START)


def test_without_anything_in_common_the_fewest_outstanding_tokens_decide() -> None:
    bench = Bench(3)
    for upstream, tokens in zip(bench.upstreams, (90_000, 5_000, 40_000), strict=True):
        upstream.outstanding_tokens = tokens
    assert bench.send(text(1, 1000)) is bench.upstreams[1]
    assert bench.send("hi") is bench.upstreams[1]


def test_a_document_moves_where_its_upstream_is_overloaded_or_full_and_is_then_known_at_both() -> None:
    bench = Bench()
    document = text(1, 10_000)
    first = bench.send(document)
    (other,) = set(bench.upstreams) - {first}
    assert bench.send(document + "a") is first
    assert bench.send(document + "b", free=[other]) is other
    first.outstanding_tokens = 500_000
    assert bench.send(document + "c") is other
    assert bench.send(document + "d") is other


def test_ejection_lasts_longer_each_time_and_ends_with_a_success() -> None:
    now = [0.0]
    ejection = Ejection(RoutingSettings(eject_after=3, eject_first=5, eject_most=12), lambda: now[0])
    assert [ejection.failed() for _ in range(5)] == [False, False, True, False, False]
    for span in (5, 10, 12, 12):
        assert ejection.active
        now[0] += span - 0.01
        assert ejection.active
        now[0] += 0.02
        assert not ejection.active
        assert ejection.failed()
    ejection.succeeded()
    assert not ejection.active
    assert [ejection.failed() for _ in range(3)] == [False, False, True]
    now[0] += 4.99
    assert ejection.active


@pytest.fixture
def two() -> Iterator[tuple[FakeUpstream, FakeUpstream]]:
    with FakeUpstream(max_model_len=10_000) as one, FakeUpstream(max_model_len=10_000) as other:
        yield one, other


@contextlib.contextmanager
def before(*fakes: FakeUpstream, **options: object) -> Iterator[Running]:
    """A gateway before several upstreams, all of them ready."""
    upstreams = [{"base_url": fake.url, "models": ["fake"]} for fake in fakes]
    with running(settings_for(fakes[0], upstreams=upstreams, **options)) as one:
        deadline = time.monotonic() + 10
        while not all(upstream.ready for upstream in one.gateway.upstreams):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield one


def generations(fake: FakeUpstream) -> int:
    return len([request for request in fake.requests if request.path == "/v1/completions"])


async def dies_in_prefill(connection: Connection) -> None:
    await stream(b": still here\n\n", end=False)(connection)


UNAVAILABLE = reply_json({"error": {"message": "full", "code": 503}}, "503 Service Unavailable")
TOO_MANY = reply_json({"error": {"message": "full", "code": 429}}, "429 Too Many Requests")


BEFORE_ANY_BYTE = {"hangs up": hang_up, "503": UNAVAILABLE, "429": TOO_MANY}
BEFORE_AN_EVENT = {"dies in prefill": dies_in_prefill, "not a stream": reply(b"half")}


@pytest.mark.parametrize(
    ("streaming", "fault"),
    [
        *((streaming, fault) for streaming in (False, True) for fault in BEFORE_ANY_BYTE),
        *((True, fault) for fault in BEFORE_AN_EVENT),  # a whole answer that has begun is not repeated
    ],
)
def test_what_has_not_begun_to_answer_is_sent_to_another_upstream(
    two: tuple[FakeUpstream, FakeUpstream], fault: str, streaming: bool
) -> None:
    bad, good = two
    bad.answers["/v1/completions"] = (BEFORE_ANY_BYTE | BEFORE_AN_EVENT)[fault]
    good.answers["/v1/completions"] = stream(delta("ok"), DONE) if streaming else OK
    with before(bad, good) as one:
        answers = [one.post(BODY | {"stream": streaming, "prompt": f"hello {n}"}) for n in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert all('"ok"' in answer.text for answer in answers)
    assert generations(bad) >= 1
    assert generations(good) == 2


def test_a_stream_that_was_kept_alive_by_comments_may_still_be_sent_to_another_upstream(
    two: tuple[FakeUpstream, FakeUpstream],
) -> None:
    async def late(connection: Connection) -> None:
        await asyncio.sleep(0.4)

    bad, good = two
    good.answers["/v1/completions"] = stream(delta("ok"), DONE)
    with before(*two, timeouts={"keep_alive": 0.1}) as one:
        one.gateway.upstreams[1].outstanding_tokens += 500_000  # so that the bad one is chosen
        bad.answers["/v1/completions"] = late
        answer = one.post(BODY | {"stream": True})
        one.gateway.upstreams[1].outstanding_tokens -= 500_000
    assert answer.content.startswith(b": keep-alive\n\n")
    assert answer.content.replace(b": keep-alive\n\n", b"") == delta("ok") + DONE
    assert (generations(bad), generations(good)) == (1, 1)


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "stream"])
def test_what_has_begun_to_answer_is_never_repeated(two: tuple[FakeUpstream, FakeUpstream], streaming: bool) -> None:
    async def half(connection: Connection) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n"
        await connection.send(head + b'{"object"')

    for fake in two:
        fake.answers["/v1/completions"] = stream(delta("a"), end=False) if streaming else half
    with before(*two) as one:
        answer = one.post(BODY | {"stream": streaming})
    assert b"upstream_died" in answer.content
    assert sum(generations(fake) for fake in two) == 1


def test_an_error_that_another_upstream_would_repeat_is_not_retried(two: tuple[FakeUpstream, FakeUpstream]) -> None:
    for fake in two:
        fake.answers["/v1/completions"] = reply(b"no", "500 Internal Server Error")
    with before(*two) as one:
        assert one.post(BODY).status_code == 500
    assert sum(generations(fake) for fake in two) == 1


def test_tries_are_bounded_in_number() -> None:
    with contextlib.ExitStack() as stack:
        fakes = [stack.enter_context(FakeUpstream(answers={"/v1/completions": hang_up})) for _ in range(4)]
        with before(*fakes, routing={"tries": 3}) as one:
            assert one.post(BODY).json()["error"]["code"] == "upstream_died"
            assert sorted(generations(fake) for fake in fakes) == [0, 1, 1, 1]
            assert [upstream.in_flight for upstream in one.gateway.upstreams] == [0] * 4


def test_tries_are_bounded_in_time(two: tuple[FakeUpstream, FakeUpstream]) -> None:
    async def slow(connection: Connection) -> None:
        await asyncio.sleep(0.3)

    for fake in two:
        fake.answers["/v1/completions"] = slow
    with before(*two, routing={"retry_deadline": 0.2}) as one:
        assert one.post(BODY).status_code == 502
    assert sum(generations(fake) for fake in two) == 1


def test_one_upstream_that_is_down_leaves_the_gateway_ready(two: tuple[FakeUpstream, FakeUpstream]) -> None:
    with before(*two) as one:
        two[0].stop()
        assert [one.post(BODY).status_code for _ in range(4)] == [200] * 4
        while (states := httpx.get(f"{one.url}/ready").json()["upstreams"])[two[0].url] == "ready":
            time.sleep(0.01)
        assert states[two[1].url] == "ready"
        two[1].stop()
        one.wait(503)


def test_an_upstream_that_keeps_failing_is_avoided_though_its_health_is_good(
    two: tuple[FakeUpstream, FakeUpstream],
) -> None:
    bad, _good = two
    bad.answers["/v1/completions"] = hang_up
    with before(*two, routing={"eject_after": 2, "eject_first": 60}) as one:
        assert [one.post(BODY).status_code for _ in range(12)] == [200] * 12
        assert generations(bad) == 2
        metrics = httpx.get(f"{one.url}/metrics").text
        assert 'wave_retries_total{model="fake"} 2.0' in metrics
        assert f'wave_upstream_ejected{{base_url="{bad.url}"}} 1.0' in metrics
        ready = httpx.get(f"{one.url}/ready")
        assert ready.status_code == 200
        assert "2 requests in a row failed" in ready.json()["upstreams"][bad.url]


def test_the_only_upstream_is_asked_even_after_failures_but_not_called_ready(upstream: FakeUpstream) -> None:
    upstream.answers["/v1/completions"] = hang_up
    with before(upstream, routing={"eject_after": 2, "eject_first": 60}) as one:
        assert [one.post(BODY).status_code for _ in range(3)] == [502] * 3
        assert "requests in a row failed" in httpx.get(f"{one.url}/ready").json()["error"]["message"]
        one.wait(503)
        upstream.answers["/v1/completions"] = OK
        assert one.post(BODY).status_code == 200
        one.wait(200)


def test_a_long_document_keeps_its_upstream_through_the_gateway(two: tuple[FakeUpstream, FakeUpstream]) -> None:
    seen: dict[int, set[str]] = {}
    with before(*two) as one:
        for question in range(4):
            for document in range(6):
                one.post(BODY | {"prompt": text(document, 3000) + text((document, question), 50)})
        for fake in two:
            for request in fake.requests:
                for document in range(6):
                    if request.path == "/v1/completions" and text(document, 3000).encode() in request.body:
                        seen.setdefault(document, set()).add(fake.url)
    assert [len(where) for where in seen.values()] == [1] * 6
    assert len(set.union(*seen.values())) == 2
