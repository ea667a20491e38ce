"""POST /v1/context: what would become of a request, without generating anything."""

from collections.abc import Callable, Iterator

import pytest
from helpers.fake_upstream import FakeUpstream
from helpers.running import Running, running, settings_for

Serve = Callable[..., Running]
PATH = "/v1/context"


@pytest.fixture
def serve(upstream: FakeUpstream) -> Iterator[Serve]:
    """Starts gateways before the fake upstream, with settings of its model."""
    started = []

    def start(**model: object) -> Running:
        given = {"max_tokens": 200, "default_max_completion_tokens": 20, "validated_length": 150}
        context = running(settings_for(upstream, model=given | model))
        started.append(context)
        return context.__enter__()

    yield start
    for context in started:
        context.__exit__(None, None, None)


def test_a_completion_that_fits(serve: Serve, upstream: FakeUpstream) -> None:
    answer = serve().post({"prompt": "x" * 119}, PATH)
    assert answer.json() == {
        "object": "context",
        "model": "fake",
        "tokens": 120,
        "exact": True,
        "prompts": [120],
        "factor": 1.2,
        "limit": 200,
        "limits": {"max_tokens": 200, "engine": 1000},
        "fits": True,
        "accepted": True,
        "completion_tokens": 20,
        "overflow": "reject",
        "truncation": {},
        "error": None,
        "train_length": 100,
        "validated_length": 150,
        "zone": "validated",
        "warning": None,
    }
    assert answer.headers["x-wave-context-tokens"] == "120"
    assert upstream.generations == 0


def test_what_each_truncation_would_keep_of_a_prompt_that_is_refused(serve: Serve) -> None:
    told = serve().post({"prompt": [[5] * 250, [6] * 10], "max_tokens": 20}, PATH).json()
    assert (told["fits"], told["accepted"], told["completion_tokens"], told["zone"]) == (False, False, None, None)
    assert told["error"]["code"] == "context_length_exceeded"
    kept = {policy: one["prompts"][0]["kept_ranges"] for policy, one in told["truncation"].items()}
    assert kept == {
        "truncate_head": [[70, 250]],
        "truncate_middle": [[0, 90], [160, 250]],
        "truncate_tail": [[0, 180]],
    }
    assert told["truncation"]["truncate_head"]["prompts"][1]["kept_ranges"] == [[0, 10]]


def test_a_prompt_that_would_be_truncated_is_accepted_but_does_not_fit(serve: Serve) -> None:
    told = serve().post({"prompt": [5] * 250, "max_tokens": 20, "overflow": "truncate_tail"}, PATH).json()
    assert (told["fits"], told["accepted"], told["error"]) == (False, True, None)
    assert list(told["truncation"]) == ["truncate_tail"]
    assert told["zone"] == "hard"
    assert told["warning"] == "the context may reach 200 tokens, beyond the 150 at which the model was shown to be good"


def test_a_clamped_request_is_accepted_but_does_not_fit(serve: Serve) -> None:
    told = serve(clamp_max_tokens=True).post({"prompt": [5] * 190, "max_tokens": 20}, PATH).json()
    assert (told["fits"], told["accepted"], told["completion_tokens"]) == (False, True, 10)


def test_a_chat(serve: Serve, upstream: FakeUpstream) -> None:
    messages = [{"role": "user", "content": "y" * 90}, {"role": "assistant", "content": "z" * 90}] * 2
    messages.append({"role": "user", "content": "?"})
    told = serve().post({"messages": messages}, PATH).json()
    assert (told["tokens"], told["fits"]) == (362, False)
    assert told["truncation"]["truncate_head"]["unit"] == "message"
    assert told["truncation"]["truncate_head"]["prompts"][0]["kept_ranges"] == [[4, 5]]
    assert upstream.generations == 0


def test_a_prompt_that_is_hopeless_is_not_tokenised(serve: Serve, upstream: FakeUpstream) -> None:
    told = serve().post({"prompt": [5] * 5000, "overflow": "truncate_head"}, PATH).json()
    assert (told["tokens"], told["exact"], told["accepted"], told["truncation"]) == (5000, True, False, {})
    assert upstream.requests == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"messages": []}, "messages"),
        ({"prompt": "", "messages": []}, "messages"),
    ],
)
def test_what_is_no_request_is_a_400(serve: Serve, body: dict, param: str) -> None:
    answer = serve().post(body, PATH)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
