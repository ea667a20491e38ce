"""Of two upstreams the first shows each fault: its request is made good by the second, or never repeated."""

import contextlib
from collections.abc import Iterator

import httpx
import pytest
from helpers.cancelling import at_rest, gauge, until
from helpers.fake_upstream import DONE, Connection, FakeUpstream, delta, reply_json, stream
from helpers.upstream_faults import BEFORE_AN_ANSWER, BODY, MID_STREAM, WHOLE_ONLY, Gateways, patient_and_hasty

WHOLE, STREAM = reply_json({"choices": [{"index": 0, "text": "ok"}]}), stream(delta("ok"), DONE)
FAULTS = BEFORE_AN_ANSWER | WHOLE_ONLY | MID_STREAM
# A whole answer has begun with a head of a status below 400, a stream with its first event.
REPEATED = {
    False: {"hangs up", "hangs up inside the head", "no HTTP", "never answers", "503", "refuses the gateway"},
    True: {
        *("hangs up", "hangs up inside the head", "no HTTP", "never answers", "503", "refuses the gateway"),
        *("redirects", "wrong content type"),
    },
}


class Pair:
    """Two upstreams, of which whichever is asked first fails, and the gateways before both."""

    def __init__(self, upstreams: tuple[FakeUpstream, FakeUpstream], gateways: Gateways) -> None:
        self.upstreams = upstreams
        self.gateways = gateways
        for upstream in upstreams:
            upstream.answers["/v1/completions"] = self._answer

    async def _answer(self, connection: Connection) -> None:
        handlers, self._handlers = self._handlers, self._handlers[1:]
        await handlers[0](connection)

    def ask(self, fault: str, *, streaming: bool) -> httpx.Response:
        """One generation, whose first try shows this fault of FAULTS; all is at rest when it is over."""
        one = self.gateways.for_fault(fault)
        self._handlers = [FAULTS[fault][0], STREAM if streaming else WHOLE]
        self._before = self._generations()
        answer = one.post(BODY | {"stream": streaming})  # gives up after 20 s
        for upstream in self.upstreams:
            at_rest(one, upstream)
        return answer

    def asked(self) -> list[int]:
        """How often each upstream was asked for it, in ascending order."""
        return sorted(now - before for now, before in zip(self._generations(), self._before, strict=True))

    def _generations(self) -> list[int]:
        return [upstream.generations for upstream in self.upstreams]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with contextlib.ExitStack() as stack:
        upstreams = (stack.enter_context(FakeUpstream()), stack.enter_context(FakeUpstream()))
        gateways = stack.enter_context(patient_and_hasty(*upstreams, routing={"eject_after": 1000}))
        for one in (gateways.patient, gateways.hasty):
            until(lambda one=one: all(upstream.ready for upstream in one.gateway.upstreams))
        yield Pair(upstreams, gateways)


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("fault", BEFORE_AN_ANSWER)
def test_a_fault_before_the_answer_is_made_good_by_the_other_upstream_where_that_can_help(
    pair: Pair, fault: str, streaming: bool
) -> None:
    _, status, code = BEFORE_AN_ANSWER[fault]
    got = pair.ask(fault, streaming=streaming)
    if fault in REPEATED[streaming]:
        assert (got.status_code, "error" in got.text) == (200, False)
        assert got.text.count('"ok"') == 1
        assert pair.asked() == [1, 1]
    else:
        assert (got.status_code, got.json()["error"]["code"]) == (status, code)
        assert pair.asked() == [0, 1]


@pytest.mark.parametrize("fault", WHOLE_ONLY)
def test_a_whole_answer_that_had_begun_is_not_asked_for_again(pair: Pair, fault: str) -> None:
    _, status, code = WHOLE_ONLY[fault]
    got = pair.ask(fault, streaming=False)
    assert (got.status_code, got.json()["error"]["code"]) == (status, code)
    assert pair.asked() == [0, 1]


@pytest.mark.parametrize("fault", MID_STREAM)
def test_a_stream_that_had_begun_is_not_asked_for_again(pair: Pair, fault: str) -> None:
    _, code = MID_STREAM[fault]
    got = pair.ask(fault, streaming=True)
    assert got.status_code == 200
    assert got.content.startswith(delta("a"))
    assert f'"code": "{code}"' in got.text
    assert pair.asked() == [0, 1]


def test_none_of_it_is_counted_as_left_by_its_client(pair: Pair) -> None:
    pair.ask("cut", streaming=True)
    assert gauge(pair.gateways.patient, "wave_rejected_total") > 0
    assert gauge(pair.gateways.patient, "wave_aborted_total") == 0
