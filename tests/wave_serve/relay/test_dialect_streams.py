"""A stream of each dialect passes as it came; where it breaks, the error is one that the dialect's SDK raises."""

import json
from collections.abc import Iterator

import pytest
from helpers.cancelling import asked, at_rest, gauge, read_to, until
from helpers.dialects import SPOKEN, Spoken
from helpers.fake_upstream import FakeUpstream, stream
from helpers.running import Running, running, settings_for
from helpers.upstream_faults import MID_STREAM, Gateways, patient_and_hasty

ERRORS = {
    "openai": b'data: {"error": {"message": "lost", "code": 500}}\n\n',
    "anthropic": b'event: error\ndata: {"type": "error", "error": {"type": "internal_error", "message": "lost"}}\n\n',
    "response": b'event: error\ndata: {"type": "error", "code": "server_error", "message": "lost", "param": null}\n\n',
}


@pytest.fixture(params=SPOKEN)
def spoken(request: pytest.FixtureRequest) -> Spoken:
    return SPOKEN[request.param]


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_every_byte_passes(gateway: Running, upstream: FakeUpstream, spoken: Spoken, size: int) -> None:
    whole = b": ping\n\n" + spoken.begun + spoken.rest
    upstream.answers[spoken.path] = stream(*(whole[start : start + size] for start in range(0, len(whole), size)))
    assert gateway.post(spoken.body | {"stream": True}, spoken.path).content == whole


def test_the_sdk_reads_it(gateway: Running, upstream: FakeUpstream, spoken: Spoken) -> None:
    upstream.answers[spoken.path] = stream(spoken.begun + spoken.rest)
    assert "".join(spoken.texts(gateway.url)) == "ab"


@pytest.mark.parametrize("end", ["dies", "stops short", *ERRORS])
def test_a_stream_that_breaks_ends_in_an_error_of_its_dialect(
    gateway: Running, upstream: FakeUpstream, spoken: Spoken, end: str
) -> None:
    events = (spoken.begun, ERRORS[end]) if end in ERRORS else (spoken.begun,)
    upstream.answers[spoken.path] = stream(*events, end=end != "dies")
    content = gateway.post(spoken.body | {"stream": True}, spoken.path).content
    assert content.startswith(spoken.begun)
    last = content[len(spoken.begun) :]
    named = spoken.path in ("/v1/responses", "/v1/messages")
    assert last.startswith(b"event: error\ndata: " if named else b"data: ")
    told = json.loads(last.partition(b"data: ")[2])
    assert told.get("type") == ("error" if named else None)
    assert told["error"]["message"]
    texts = []
    with pytest.raises(spoken.error) as caught:
        texts.extend(spoken.texts(gateway.url))
    assert "".join(texts) == "a"
    assert told["error"]["message"] in str(caught.value)


@pytest.fixture(scope="module")
def faulty() -> Iterator[tuple[FakeUpstream, Gateways]]:
    """A fake upstream and the gateways that meet its faults."""
    with FakeUpstream() as fake, patient_and_hasty(fake) as gateways:
        yield fake, gateways


@pytest.mark.parametrize("fault", MID_STREAM)
def test_no_fault_after_the_first_token_is_repeated(
    faulty: tuple[FakeUpstream, Gateways], spoken: Spoken, fault: str
) -> None:
    fake, gateways = faulty
    before = fake.generations
    fake.answers[spoken.path] = MID_STREAM[fault][0]
    gateways.for_fault(fault).post(spoken.body | {"stream": True}, spoken.path)
    assert fake.generations == before + 1


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "stream"])
def test_leaving_ends_the_work_upstream(
    gateway: Running, upstream: FakeUpstream, spoken: Spoken, streaming: bool
) -> None:
    upstream.answers[spoken.path] = stream(spoken.begun, upstream.wait_for_abort)
    with asked(gateway.url, spoken.body | {"stream": streaming}, spoken.path) as connection:
        until(lambda: upstream.open_generations == 1)
        if streaming:
            read_to(connection, spoken.begun[-20:])
    assert upstream.aborted.wait(10)
    until(lambda: gauge(gateway, "wave_aborted_total") == 1)
    at_rest(gateway, upstream)


def test_what_comes_before_the_first_token_is_not_taken_for_it(gateway: Running, upstream: FakeUpstream) -> None:
    for name, tokens in (("responses", 0), ("completions", 1)):
        spoken = SPOKEN[name]
        first = spoken.begun.split(b"\n\n")[0] + b"\n\n"
        upstream.answers[spoken.path] = stream(first, end=False)
        gateway.post(spoken.body | {"stream": True}, spoken.path)
        until(lambda: gauge(gateway, "wave_in_flight_requests") == 0)
        assert gauge(gateway, "wave_time_to_first_token_seconds_count") == tokens


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "stream"])
def test_leaving_is_passed_on_through_a_second_gateway(
    gateway: Running, upstream: FakeUpstream, spoken: Spoken, streaming: bool
) -> None:
    upstream.answers[spoken.path] = stream(spoken.begun, upstream.wait_for_abort)
    outer = settings_for(upstream, upstreams=[{"base_url": gateway.url, "models": ["fake"]}])
    with running(outer) as second:
        with asked(second.url, spoken.body | {"stream": streaming}, spoken.path):
            until(lambda: upstream.open_generations == 1)
        assert upstream.aborted.wait(10)
        until(lambda: gauge(gateway, "wave_aborted_total") == 1)
