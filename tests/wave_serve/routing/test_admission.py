"""Places at upstreams: bounds, the queue's order and its refusals, and what a client sees of them."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Iterator

import httpx
import openai
import pytest
from helpers.fake_upstream import DONE, Connection, FakeUpstream, delta, stream
from helpers.running import Running, running, sdk, settings_for

from wave_serve.errors import ApiError
from wave_serve.routing.admission import Admission
from wave_serve.routing.rates import ServiceRate
from wave_serve.routing.router import Demand, Router
from wave_serve.settings import AdmissionSettings, RoutingSettings, TimeoutSettings
from wave_serve.upstream.upstream import Upstream

BODY = {"model": "fake", "prompt": "hello", "max_tokens": 5}


class Scene:
    """An admission over upstreams that are ready but never asked; tasks that hold places until they are let go."""

    def __init__(self, upstreams: int = 1, **bounds: float) -> None:
        self.upstreams = [
            Upstream(f"http://127.0.0.1:{port}", ("m",), TimeoutSettings()) for port in range(1, upstreams + 1)
        ]
        for upstream in self.upstreams:
            upstream.reason = None
        settings = AdmissionSettings(**{"queue_deadline": 30.0} | bounds)
        self.admission = Admission(settings, Router(RoutingSettings()), 5)
        self.order: list[str] = []
        self.tasks: dict[str, asyncio.Task] = {}
        self.let_go: dict[str, asyncio.Event] = {}

    async def ask(self, name: str, tokens: int = 1, key: str = "", patience: float = 30.0) -> None:
        """Starts a request and lets it come as far as it gets."""
        self.let_go[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._hold(name, tokens, key, patience))
        await settle()

    async def end(self, name: str) -> None:
        """Ends a request that has its place."""
        assert name in self.order
        self.let_go[name].set()
        await self.tasks[name]
        await settle()

    async def close(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        for upstream in self.upstreams:
            await upstream.client.close()
        assert self.admission.waiting == (0, 0)
        assert [(one.in_flight, one.outstanding_tokens) for one in self.upstreams] == [(0, 0)] * len(self.upstreams)

    async def _hold(self, name: str, tokens: int, key: str, patience: float) -> str:
        demand = Demand(tokens, key, self.upstreams)
        async with self.admission.place(demand, time.monotonic() + patience) as upstream:
            self.order.append(name)
            await self.let_go[name].wait()
            return upstream.base_url


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def play(scenario: Callable[[Scene], Awaitable[None]], upstreams: int = 1, **bounds: float) -> None:
    async def whole() -> None:
        scene = Scene(upstreams, **bounds)
        try:
            await scenario(scene)
        finally:
            await scene.close()

    asyncio.run(whole())


def test_requests_beyond_the_bound_wait_their_turn() -> None:
    async def scenario(scene: Scene) -> None:
        for name in "abcd":
            await scene.ask(name)
        assert scene.order == ["a", "b"]
        assert scene.admission.waiting == (2, 2)
        await scene.end("b")
        assert scene.order == ["a", "b", "c"]
        await scene.end("a")
        assert scene.order == ["a", "b", "c", "d"]

    play(scenario, max_requests=2)


def test_prompt_tokens_are_bounded_too_and_a_long_prompt_is_let_through_alone() -> None:
    async def scenario(scene: Scene) -> None:
        await scene.ask("first", 60)
        await scene.ask("second", 50)
        await scene.ask("huge", 500)
        await scene.ask("small", 1)
        assert scene.order == ["first"]
        await scene.end("first")
        assert scene.order == ["first", "second"], "the small one may not overtake the huge one for ever"
        await scene.end("second")
        assert scene.order == ["first", "second", "huge"]
        await scene.end("huge")
        assert scene.order[-1] == "small"

    play(scenario, max_prompt_tokens=100)


def test_a_key_with_much_work_does_not_hold_up_another() -> None:
    async def scenario(scene: Scene) -> None:
        await scene.ask("busy-0", 10, "busy")
        for number in range(1, 6):
            await scene.ask(f"busy-{number}", 10, "busy")
        await scene.ask("other-0", 10, "other")
        await scene.ask("other-1", 10, "other")
        for _ in range(5):
            await scene.end(scene.order[-1])
        assert scene.order.index("other-0") <= 2
        assert scene.order.index("other-1") <= 4

    play(scenario, max_requests=1)


def test_a_full_queue_refuses_the_one_whose_turn_is_last() -> None:
    async def scenario(scene: Scene) -> None:
        for number in range(4):
            await scene.ask(f"busy-{number}", 10, "busy")
        with pytest.raises(ApiError) as caught:
            await scene.tasks["busy-3"]
        assert (caught.value.status, caught.value.code) == (429, "queue_full")
        await scene.ask("other", 10, "other")
        with pytest.raises(ApiError):
            await scene.tasks["busy-2"]
        await scene.end("busy-0")
        await scene.end(scene.order[-1])
        assert set(scene.order) == {"busy-0", "busy-1", "other"}

    play(scenario, max_requests=1, queue_requests=2)


@pytest.mark.parametrize(("bounds", "fits"), [({"queue_prompt_tokens": 25}, 2), ({"queue_requests": 0}, 0)])
def test_the_queue_is_bounded_in_tokens_and_may_be_none_at_all(bounds: dict, fits: int) -> None:
    async def scenario(scene: Scene) -> None:
        for number in range(5):
            await scene.ask(str(number), 10)
        assert scene.admission.waiting[0] == fits
        refused = [name for name, task in scene.tasks.items() if task.done()]
        assert len(refused) == 4 - fits
        for name in refused:
            assert scene.tasks[name].exception().code == "queue_full"

    play(scenario, max_requests=1, **bounds)


def test_waiting_ends_with_the_deadline() -> None:
    async def scenario(scene: Scene) -> None:
        await scene.ask("a")
        await scene.ask("b", patience=0.05)
        with pytest.raises(ApiError) as caught:
            await scene.tasks["b"]
        assert (caught.value.status, caught.value.code) == (429, "queue_timeout")
        assert caught.value.headers["retry-after"] == "5", "nothing was observed yet"
        await scene.end("a")
        assert scene.order == ["a"]

    play(scenario, max_requests=1)


def test_a_refusal_tells_when_the_backlog_will_have_been_worked_off() -> None:
    now = [0.0]

    async def scenario(scene: Scene) -> None:
        scene.admission.rate = ServiceRate(lambda: now[0])
        for number in range(5):
            await scene.ask(f"before-{number}", 10)
            now[0] += 2.5
            await scene.end(f"before-{number}")
        for number in range(5):
            await scene.ask(f"now-{number}", 10)
        with pytest.raises(ApiError) as caught:
            await scene.tasks["now-4"]
        assert caught.value.headers == {"retry-after": "10", "retry-after-ms": "10000"}, "3 wait, and the refused one"

    play(scenario, max_requests=1, queue_requests=3)


def test_who_leaves_the_queue_frees_the_place_behind() -> None:
    async def scenario(scene: Scene) -> None:
        await scene.ask("a", 90)
        await scene.ask("huge", 500)
        await scene.ask("small", 5)
        scene.tasks["huge"].cancel()
        await settle()
        assert scene.order == ["a", "small"]

    play(scenario, max_prompt_tokens=100)


@pytest.mark.parametrize("steps", range(12))
def test_who_leaves_while_the_place_is_granted_gives_it_back(steps: int) -> None:
    """At whichever step of the event loop: before the place is granted, between that and its use, or after."""

    async def scenario(scene: Scene) -> None:
        for name in "abc":
            await scene.ask(name)
        scene.let_go["a"].set()
        for _ in range(steps):
            await asyncio.sleep(0)
        scene.tasks["b"].cancel()
        await settle()
        assert [name for name in scene.order if name != "b"] == ["a", "c"]

    play(scenario, max_requests=1)


def test_waiting_ends_when_no_upstream_is_left_and_goes_on_when_one_comes() -> None:
    async def scenario(scene: Scene) -> None:
        first, second = scene.upstreams
        second.reason = "down"
        await scene.ask("a")
        await scene.ask("b")
        assert scene.order == ["a"]
        second.reason = None
        scene.admission.serve_queue()
        await settle()
        assert scene.order == ["a", "b"]
        await scene.ask("c")
        first.reason = second.reason = "down"
        scene.admission.serve_queue()
        with pytest.raises(ApiError) as caught:
            await scene.tasks["c"]
        assert (caught.value.status, caught.value.code) == (503, "upstream_unavailable")

    play(scenario, upstreams=2, max_requests=1)


def test_wider_bounds_let_waiting_requests_through() -> None:
    async def scenario(scene: Scene) -> None:
        for name in "abc":
            await scene.ask(name)
        scene.admission.apply(AdmissionSettings(max_requests=2))
        await settle()
        assert scene.order == ["a", "b"]

    play(scenario, max_requests=1)


def test_an_ejected_upstream_is_avoided_unless_there_is_no_other() -> None:
    async def scenario(scene: Scene) -> None:
        first, second = scene.upstreams
        for _ in range(3):
            first.note(failed=True)
        for name in "ab":
            await scene.ask(name)
        assert (first.in_flight, second.in_flight) == (0, 2)
        second.reason = "down"
        await scene.ask("c")
        assert first.in_flight == 1

    play(scenario, upstreams=2)


def test_the_rate_is_that_of_the_time_with_work() -> None:
    now = [0.0]
    rate = ServiceRate(lambda: now[0])
    assert rate.seconds_for(1, 1) is None
    for _ in range(400):
        rate.start()
        now[0] += 2.0
        rate.finish(100)
        now[0] += 50.0
    assert rate.seconds_for(3, 30) == pytest.approx(6)
    assert rate.seconds_for(1, 1000) == pytest.approx(20)
    for _ in range(200):  # twice as fast from now on, two at a time
        rate.start()
        rate.start()
        now[0] += 1.0
        rate.finish(100)
        now[0] += 1.0
        rate.finish(100)
    assert rate.seconds_for(3, 30) == pytest.approx(3, rel=0.01)


@pytest.fixture
def narrow(upstream: FakeUpstream) -> Iterator[Running]:
    """One place, one in the queue."""
    with running(
        settings_for(upstream, admission={"max_requests": 1, "queue_requests": 1, "queue_deadline": 10})
    ) as one:
        yield one


class Held:
    """An upstream's answer that is held back until let go."""

    def __init__(self, upstream: FakeUpstream) -> None:
        self._go = threading.Event()
        upstream.answers["/v1/completions"] = self._answer

    async def _answer(self, connection: Connection) -> None:
        await asyncio.to_thread(self._go.wait)
        await stream(delta("a"), DONE)(connection)

    @contextlib.contextmanager
    def one_running(self, gateway: Running) -> Iterator[None]:
        """A request holds the only place until the block ends."""
        thread = threading.Thread(target=lambda: gateway.post(BODY | {"stream": True}))
        thread.start()
        while gateway.gateway.upstreams[0].in_flight == 0:
            time.sleep(0.01)
        try:
            yield
        finally:
            self._go.set()
            thread.join()


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "stream"])
def test_a_request_that_waited_in_vain_is_a_plain_429_even_where_comments_are_due(
    upstream: FakeUpstream, streaming: bool
) -> None:
    admission = {"max_requests": 1, "queue_deadline": 0.3}
    settings = settings_for(upstream, admission=admission, timeouts={"keep_alive": 0.05})
    with running(settings) as one, Held(upstream).one_running(one), pytest.raises(openai.RateLimitError) as caught:
        sdk(one).completions.create(**BODY, stream=streaming)
    assert caught.value.code == "queue_timeout"
    assert int(caught.value.response.headers["retry-after"]) >= 1
    assert int(caught.value.response.headers["retry-after-ms"]) >= 1
    assert caught.value.response.headers["x-wave-context-tokens"] == "6"


def test_a_waiting_request_is_sent_when_its_turn_comes(narrow: Running, upstream: FakeUpstream) -> None:
    answers = []
    with Held(upstream).one_running(narrow):
        second = threading.Thread(target=lambda: answers.append(narrow.post(BODY | {"stream": True})))
        second.start()
        while narrow.gateway.admission.waiting[0] == 0:
            time.sleep(0.01)
        full = narrow.post(BODY)
        assert (full.status_code, full.json()["error"]["code"]) == (429, "queue_full")
    second.join()
    assert answers[0].status_code == 200
    assert len([request for request in upstream.requests if request.path == "/v1/completions"]) == 2


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "stream"])
def test_a_client_that_leaves_the_queue_frees_it(narrow: Running, upstream: FakeUpstream, streaming: bool) -> None:
    with Held(upstream).one_running(narrow):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{narrow.url}/v1/completions", json=BODY | {"stream": streaming}, timeout=0.2)
        while narrow.gateway.admission.waiting != (0, 0):
            time.sleep(0.01)
    assert len([request for request in upstream.requests if request.path == "/v1/completions"]) == 1
