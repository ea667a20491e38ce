"""Windows: a request goes only where it fits, and a window that changes is noticed."""

import contextlib
import logging
from collections.abc import Iterator

import httpx
import pytest
from helpers.cancelling import gauge, until
from helpers.fake_upstream import FakeUpstream, hang_up, reply_json
from helpers.running import Running, running, settings_for

from wave_serve.settings import Settings

LONG = {"model": "fake", "prompt": "x" * 500, "max_tokens": 5}
SHORT = {"model": "fake", "prompt": "x" * 50, "max_tokens": 5}
OVER = {"error": {"message": "This model's maximum context length is 10 tokens.", "code": 400}}


@contextlib.contextmanager
def two(
    narrow: str = "fake", wide: str = "fake", **options: object
) -> Iterator[tuple[FakeUpstream, FakeUpstream, Running]]:
    """A gateway before an upstream with a window of 100 tokens and one with 1,000."""
    with FakeUpstream(narrow, 100) as small, FakeUpstream(wide, 1000) as large:
        upstreams = [{"base_url": one.url, "models": [one.model]} for one in (small, large)]
        models = {name: {"default_max_completion_tokens": 20} for name in (narrow, wide)}
        with running(settings_for(small, models=models, upstreams=upstreams, **options)) as one:
            until(lambda: all(upstream.ready for upstream in one.gateway.upstreams))
            yield small, large, one


def test_a_long_request_goes_only_to_the_upstream_that_it_fits() -> None:
    with two() as (small, large, one):
        for _ in range(6):
            assert one.post(LONG).status_code == 200
        assert (small.generations, large.generations) == (0, 6)
        for _ in range(6):
            assert one.post(SHORT).status_code == 200
        assert small.generations > 0
        (card,) = httpx.get(f"{one.url}/v1/models").json()["data"]
        assert card["max_model_len"] == card["limits"]["engine"] == 1000


def test_room_for_the_answer_counts_too() -> None:
    with two() as (small, large, one):
        assert one.post(SHORT | {"max_tokens": 60}).status_code == 200
        assert (small.generations, large.generations) == (0, 1)


def test_nothing_falls_back_to_a_window_that_is_too_narrow() -> None:
    with two() as (small, large, one):
        large.answers["/v1/completions"] = hang_up
        assert one.post(LONG).status_code == 502
        large.stop()
        answer = one.post(LONG)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "upstream_unavailable")
        assert small.generations == 0
        assert one.post(SHORT).status_code == 200


@pytest.mark.parametrize(
    "status", ["400 Bad Request", "413 Too Large", "422 Unprocessable", "500 Internal Server Error"]
)
def test_a_refusal_over_the_context_is_no_upstreams_failure(status: str) -> None:
    with two(routing={"eject_after": 1, "tries": 2}) as (small, large, one):
        small.answers["/v1/completions"] = large.answers["/v1/completions"] = reply_json(OVER, status)
        for _ in range(4):
            answer = one.post(SHORT)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
        assert small.generations + large.generations == 4
        assert gauge(one, "wave_upstream_ejected") == 0
        assert gauge(one, "wave_retries_total") == 0


def test_a_window_that_changes_is_noticed(upstream: FakeUpstream, caplog: pytest.LogCaptureFixture) -> None:
    with running(settings_for(upstream)) as one, caplog.at_level(logging.WARNING):
        assert one.post(LONG).status_code == 200
        upstream.answers["/v1/models"] = reply_json({"data": [{"id": "fake", "max_model_len": 300}]})
        until(lambda: gauge(one, "wave_upstream_window_changes_total") == 1)
        answer = one.post(LONG)
        assert (answer.status_code, answer.json()["error"]["n_ctx"]) == (400, 300)
        assert gauge(one, "wave_upstream_max_model_len") == 300
        assert "upstream's max_model_len changed" in caplog.messages
        until(lambda: one.gateway.upstreams[0].ready)
        assert httpx.get(f"{one.url}/v1/models/fake").json()["max_model_len"] == 300


def test_of_an_alias_the_narrowest_model_that_fits_answers() -> None:
    with two("near", "far", aliases={"either": ("far", "near")}) as (small, large, one):
        for body, took in ((SHORT, small), (LONG, large), (SHORT | {"max_tokens": None}, small)):
            before = took.generations
            answer = one.post(body | {"model": "either"})
            assert answer.status_code == 200
            assert took.generations == before + 1
            assert f'"model":"{took.model}"'.encode() in took.requests[-1].body.replace(b": ", b":")
        refused = one.post(LONG | {"model": "either", "max_tokens": 600})
        assert refused.json()["error"]["n_ctx"] == 1000
        told = one.post(LONG | {"model": "either"}, "/v1/context").json()
        assert (told["model"], told["fits"]) == ("far", True)
        cards = {card["id"]: card["max_model_len"] for card in httpx.get(f"{one.url}/v1/models").json()["data"]}
        assert cards == {"near": 100, "far": 1000, "either": 1000}
        assert httpx.get(f"{one.url}/v1/models/either").json()["id"] == "either"
        small.stop()
        until(lambda: not one.gateway.upstreams[0].ready)
        assert one.post(SHORT | {"model": "either"}).status_code == 200


@pytest.mark.parametrize(
    ("aliases", "said"),
    [
        ({"fake": ("fake",)}, "aliases.fake is the name of a model"),
        ({"any": ()}, "aliases.any names no model"),
        ({"any": ("other",)}, "aliases.any names 'other', which is not described under models"),
    ],
)
def test_an_alias_that_makes_no_sense_is_refused(aliases: dict, said: str) -> None:
    upstreams = [{"base_url": "http://127.0.0.1:1", "models": ["fake"]}]
    with pytest.raises(ValueError, match=said):
        Settings.model_validate({"models": {"fake": {}}, "upstreams": upstreams, "aliases": aliases})
