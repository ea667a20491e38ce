"""Every answer's usage is held against the count: no model is counted wrongly twice."""

import json
from collections.abc import Iterator

import httpx
import pytest
from helpers.engine_tokenizer import EngineTokenizer
from helpers.fake_upstream import DONE, Connection, FakeUpstream, delta, reply_json, stream
from helpers.running import Running, running, settings_for

from wave_serve.engine.checkpoint import bundled_checkpoint

PROMPT = "a secret of nobody's business"


class ErringEngine:
    """Tokenises and answers as an engine with the bundled tokenizer; from the third answer on it counts one more."""

    def __init__(self) -> None:
        self.tokenizer = EngineTokenizer(bundled_checkpoint())
        self.answers = 0

    def usage(self, body: dict) -> dict:
        """The usage of the next answer."""
        self.answers += 1
        prompts = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
        tokens = sum(len(self.tokenizer.encode(prompt)) for prompt in prompts) + (self.answers > 2)
        return {"prompt_tokens": tokens, "completion_tokens": 1, "total_tokens": tokens + 1}

    async def complete(self, connection: Connection) -> None:
        """A completion, whole or streamed."""
        body = json.loads(connection.body)
        usage = self.usage(body)
        if not body.get("stream"):
            await reply_json({"choices": [{"index": 0, "text": "ok"}], "usage": usage})(connection)
            return
        last = b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n"
        asked = (body.get("stream_options") or {}).get("include_usage")
        await stream(delta("ok"), *([last] if asked else []), DONE)(connection)


@pytest.fixture
def engine(upstream: FakeUpstream) -> ErringEngine:
    one = ErringEngine()
    upstream.answers |= one.tokenizer.handlers | {"/v1/completions": one.complete}
    return one


@pytest.fixture
def gateway(upstream: FakeUpstream, engine: ErringEngine) -> Iterator[Running]:
    """A gateway with the bundled tokenizer, which agrees with the upstream's on the battery."""
    model = {"tokenizer": str(bundled_checkpoint() / "tokenizer.json")}
    with running(settings_for(upstream, model=model)) as one:
        upstream.requests.clear()
        yield one


def asked(upstream: FakeUpstream) -> list[str]:
    return [request.path for request in upstream.requests]


def mismatches(gateway: Running) -> float:
    lines = httpx.get(f"{gateway.url}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("wave_count_mismatches_total{"))


@pytest.mark.parametrize("streamed", [False, True])
def test_the_first_difference_sets_the_local_tokenizer_aside(
    streamed: bool, upstream: FakeUpstream, gateway: Running, caplog: pytest.LogCaptureFixture
) -> None:
    body = {"prompt": PROMPT, "max_tokens": 1, "stream": streamed}
    for answer in range(1, 3):
        assert gateway.post(body).status_code == 200
        assert asked(upstream) == ["/v1/completions"] * answer
    assert mismatches(gateway) == 0
    assert gateway.post(body).status_code == 200
    assert mismatches(gateway) == 1
    (record,) = [record for record in caplog.records if "tokenizer differs" in record.message]
    assert record.fields["reported"] == record.fields["counted"] + 1
    assert PROMPT not in str(record.__dict__)
    upstream.requests.clear()
    assert gateway.post(body).status_code == 200
    assert asked(upstream) == ["/tokenize", "/v1/completions"]


def test_several_prompts_are_compared_as_their_sum(gateway: Running) -> None:
    for _ in range(2):
        assert gateway.post({"prompt": ["one", "and two", "and three more"], "max_tokens": 1}).status_code == 200
    assert mismatches(gateway) == 0


def test_a_difference_in_what_the_upstream_counted_itself_is_only_reported(
    upstream: FakeUpstream, gateway: Running
) -> None:
    usage = {"prompt_tokens": 99, "completion_tokens": 1, "total_tokens": 100}
    upstream.answers["/v1/completions"] = reply_json({"choices": [], "usage": usage})
    assert gateway.post({"prompt": [5, 6, 7], "max_tokens": 1}).status_code == 200
    assert mismatches(gateway) == 1
    assert gateway.gateway.catalogue.find("fake").counter.local


def test_a_stream_hides_the_usage_that_only_the_gateway_asked_for(upstream: FakeUpstream, gateway: Running) -> None:
    answer = gateway.post({"prompt": PROMPT, "max_tokens": 1, "stream": True})
    assert answer.content == delta("ok") + DONE
    assert json.loads(upstream.requests[0].body)["stream_options"] == {"include_usage": True}
    options = {"include_usage": True}
    answer = gateway.post({"prompt": PROMPT, "max_tokens": 1, "stream": True, "stream_options": options})
    assert b'"usage"' in answer.content


def test_token_ids_are_streamed_without_asking_for_usage(upstream: FakeUpstream, gateway: Running) -> None:
    upstream.answers["/v1/completions"] = stream(delta("ok"), DONE)
    assert gateway.post({"prompt": [5, 6, 7], "max_tokens": 1, "stream": True}).content == delta("ok") + DONE
    assert "stream_options" not in json.loads(upstream.requests[-1].body)
