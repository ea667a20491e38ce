"""Responses that an upstream keeps: they pass where it has a store, and are refused where it has none."""

import json
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from helpers.cancelling import until
from helpers.dialects import RESPONSE, named
from helpers.fake_upstream import FakeUpstream, reply, reply_json, stream
from helpers.running import Running, running, sdk, settings_for

from wave_serve.keys.file import entry_for
from wave_serve.settings import Settings

BODY = {"model": "fake", "input": "hello", "max_output_tokens": 5}
USED = {"input_tokens": 40, "output_tokens": 10, "total_tokens": 50}
KEPT = RESPONSE | {"status": "completed", "usage": USED}
GO_ON = {"previous_response_id": "resp_1"}
KEYS = {name: f"sk-wave-{name:-<40}" for name in ("ada", "bob")}


@pytest.fixture
def keeping(upstream: FakeUpstream, tmp_path: Path) -> Iterator[Running]:
    """A gateway with two keys before an upstream with a store and one without."""
    upstream.answers |= {"/v1/responses": reply_json(KEPT), "/v1/responses/resp_1": reply_json(KEPT)}
    upstream.answers["/v1/responses/resp_1/cancel"] = reply_json(KEPT | {"status": "cancelled"})
    keys = tmp_path / "keys.yaml"
    keys.write_text("keys:\n" + "\n".join(entry_for(key, name, {}) for name, key in KEYS.items()) + "\n")
    with FakeUpstream() as forgetful:
        upstreams = [
            {"base_url": forgetful.url, "models": ["fake"]},
            {"base_url": upstream.url, "models": ["fake"], "keeps_responses": True},
        ]
        with running(settings_for(upstream, upstreams=upstreams, auth={"keys_file": str(keys)})) as one:
            until(lambda: all(each.ready for each in one.gateway.upstreams))
            yield one
        assert forgetful.generations == 0


def keeping_at(upstream: FakeUpstream, **options: object) -> Settings:
    """Settings of a gateway without keys, before an upstream with a store."""
    entry = {"base_url": upstream.url, "models": ["fake"], "keeps_responses": True}
    return settings_for(upstream, upstreams=[entry], **options)


def client_of(one: Running, name: str) -> openai.OpenAI:
    return sdk(one).with_options(api_key=KEYS[name])


def test_a_response_is_kept_gone_on_from_retrieved_and_cancelled(keeping: Running, upstream: FakeUpstream) -> None:
    ada = client_of(keeping, "ada")
    for _ in range(4):
        first = ada.responses.create(**BODY, store=True)
    answer = ada.responses.with_raw_response.create(**BODY, previous_response_id=first.id)
    assert int(answer.headers["x-wave-context-tokens"]) == 50 + len("\0hello")  # a begin-of-text token counts
    assert json.loads(upstream.requests[-1].body)["previous_response_id"] == first.id
    assert ada.responses.retrieve(first.id).usage.total_tokens == 50
    assert ada.responses.cancel(first.id).status == "cancelled"


def test_without_store_a_response_is_kept_where_its_upstream_keeps_any(upstream: FakeUpstream) -> None:
    upstream.answers |= {"/v1/responses": reply_json(KEPT), "/v1/responses/resp_1": reply_json(KEPT)}
    with running(keeping_at(upstream)) as one:
        sdk(one).responses.create(**BODY, store=False)
        with pytest.raises(openai.NotFoundError):
            sdk(one).responses.retrieve("resp_1")
        sdk(one).responses.create(**BODY)
        assert sdk(one).responses.retrieve("resp_1").id == "resp_1"


def test_what_was_said_before_counts_against_the_cap(keeping: Running, upstream: FakeUpstream) -> None:
    ada = client_of(keeping, "ada")
    upstream.answers["/v1/responses"] = reply_json(KEPT | {"usage": USED | {"total_tokens": 998}})
    first = ada.responses.create(**BODY, store=True)
    with pytest.raises(openai.BadRequestError) as caught:
        ada.responses.create(**BODY, previous_response_id=first.id, truncation="auto")
    assert caught.value.code == "context_length_exceeded"


@pytest.fixture
def two_models(upstream: FakeUpstream) -> Iterator[Running]:
    """A gateway before a narrow upstream with a store and a wide one without, of one model each, and an alias."""
    upstream.answers |= {"/v1/responses": reply_json(KEPT), "/v1/responses/resp_1": reply_json(KEPT)}
    with FakeUpstream(model="wide", max_model_len=5000) as wide:
        described = {
            "models": {"fake": {}, "wide": {}},
            "aliases": {"any": ["fake", "wide"]},
            "upstreams": [
                {"base_url": upstream.url, "models": ["fake"], "keeps_responses": True},
                {"base_url": wide.url, "models": ["wide"]},
            ],
        }
        with running(settings_for(upstream, **described)) as one:
            until(lambda: all(each.ready for each in one.gateway.upstreams))
            one.post(BODY | {"store": True}, "/v1/responses")
            yield one
        assert wide.generations == 0


@pytest.mark.parametrize("extra", [{"store": True}, {"background": True}, GO_ON])
def test_what_the_engine_of_a_model_does_not_keep_is_refused_by_name(two_models: Running, extra: dict) -> None:
    answer = two_models.post(BODY | {"model": "wide"} | extra, "/v1/responses")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, next(iter(extra)))


@pytest.mark.parametrize("extra", [{"store": True}, GO_ON])
def test_of_an_alias_only_models_that_keep_responses_are_asked(two_models: Running, extra: dict) -> None:
    assert two_models.post(BODY | {"model": "any"} | extra, "/v1/responses").status_code == 200
    for path in ("/v1/responses", "/v1/context"):
        answer = two_models.post(BODY | {"model": "any", "input": "x" * 1200} | extra, path)
        assert answer.headers["x-wave-context-limit"] == "1000"
        error = answer.json()["error"]
        assert (error["code"], error["n_ctx"]) == ("context_length_exceeded", 1000)


def test_a_model_that_is_down_is_no_reason_to_refuse_what_its_upstream_keeps(
    two_models: Running, upstream: FakeUpstream
) -> None:
    upstream.stop()
    until(lambda: not two_models.gateway.upstreams[0].ready)
    answer = two_models.post(BODY | {"model": "any"} | GO_ON, "/v1/responses")
    assert answer.status_code == 503


def test_the_window_of_the_upstream_that_keeps_a_response_is_the_cap(upstream: FakeUpstream) -> None:
    upstream.answers["/v1/responses"] = reply_json(KEPT)
    with FakeUpstream(max_model_len=5000) as wide:
        entries = [
            {"base_url": wide.url, "models": ["fake"]},
            {"base_url": upstream.url, "models": ["fake"], "keeps_responses": True},
        ]
        with running(settings_for(upstream, upstreams=entries)) as one:
            until(lambda: all(each.ready for each in one.gateway.upstreams))
            one.post(BODY | {"store": True}, "/v1/responses")
            for extra in ({"store": True}, GO_ON):
                error = one.post(BODY | {"input": "x" * 1200} | extra, "/v1/responses").json()["error"]
                assert (error["code"], error["n_ctx"]) == ("context_length_exceeded", 1000)


def test_a_streamed_response_is_kept_too(keeping: Running, upstream: FakeUpstream) -> None:
    created = named({"type": "response.created", "response": RESPONSE | {"status": "in_progress"}})
    upstream.answers["/v1/responses"] = stream(created, named({"type": "response.completed", "response": KEPT}))
    assert len(list(client_of(keeping, "ada").responses.create(**BODY, store=True, stream=True))) == 2
    assert client_of(keeping, "ada").responses.retrieve("resp_1").id == "resp_1"


def test_a_kept_response_comes_whole_and_not_as_a_stream(keeping: Running) -> None:
    ada = client_of(keeping, "ada")
    ada.responses.create(**BODY, store=True)
    assert ada.responses.retrieve("resp_1", stream=False).id == "resp_1"
    with pytest.raises(openai.BadRequestError) as caught:
        ada.responses.retrieve("resp_1", stream=True, starting_after=3)
    assert caught.value.param == "stream"


def test_a_response_is_only_its_own_keys(keeping: Running) -> None:
    client_of(keeping, "ada").responses.create(**BODY, store=True)
    bob = client_of(keeping, "bob")
    with pytest.raises(openai.NotFoundError):
        bob.responses.retrieve("resp_1")
    with pytest.raises(openai.NotFoundError) as caught:
        bob.responses.create(**BODY, previous_response_id="resp_1")
    assert caught.value.param == "previous_response_id"


def test_whether_a_response_is_still_there_is_the_engines_to_say(upstream: FakeUpstream) -> None:
    upstream.answers |= {"/v1/responses": reply_json(KEPT), "/v1/responses/resp_1": reply_json(KEPT)}
    with running(keeping_at(upstream)) as one:
        sdk(one).responses.create(**BODY, store=True)
        health, upstream.answers["/health"] = upstream.answers["/health"], reply(b"", "500 Internal Server Error")
        one.wait(503)
        upstream.answers["/health"] = health
        one.wait(200)
        assert sdk(one).responses.retrieve("resp_1").id == "resp_1"
        lost = reply_json({"error": {"message": "Response with id 'resp_1' not found."}}, "404 Not Found")
        upstream.answers |= {"/v1/responses": lost, "/v1/responses/resp_1": lost}
        for ask in (lambda: sdk(one).responses.retrieve("resp_1"), lambda: sdk(one).responses.create(**BODY, **GO_ON)):
            with pytest.raises(openai.NotFoundError, match="'resp_1' not found"):
                ask()


def test_no_request_can_give_its_response_the_id_of_another(keeping: Running, upstream: FakeUpstream) -> None:
    client_of(keeping, "ada").responses.create(**BODY, store=True)
    bob = client_of(keeping, "bob")
    taken = bob.responses.with_raw_response.create(**BODY, store=True, extra_body={"request_id": "resp_1"})
    assert "request_id" not in json.loads(upstream.requests[-1].body)
    assert taken.headers["x-request-id"] == "resp_1"
    with pytest.raises(openai.NotFoundError):
        bob.responses.retrieve("resp_1")
    assert client_of(keeping, "ada").responses.retrieve("resp_1").id == "resp_1"


def test_one_is_gone_on_from_as_soon_as_it_is_complete(keeping: Running, upstream: FakeUpstream) -> None:
    queued = reply_json(RESPONSE | {"status": "queued", "usage": None})
    upstream.answers |= {"/v1/responses": queued, "/v1/responses/resp_1": queued}
    ada = client_of(keeping, "ada")
    ada.responses.create(**BODY, background=True)
    with pytest.raises(openai.BadRequestError, match="is not complete yet"):
        ada.responses.create(**BODY, **GO_ON)
    upstream.answers["/v1/responses/resp_1"] = reply_json(KEPT)
    answer = ada.responses.with_raw_response.create(**BODY, **GO_ON)
    assert int(answer.headers["x-wave-context-tokens"]) == 50 + len("\0hello")


@pytest.mark.parametrize("extra", [{"store": True}, {"background": True}, {"previous_response_id": "resp_1"}])
def test_without_a_store_it_is_refused_by_name(gateway: Running, upstream: FakeUpstream, extra: dict) -> None:
    answer = gateway.post(BODY | extra, "/v1/responses")
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, next(iter(extra)))
    assert "keeps no responses" in error["message"]
    assert upstream.generations == 0
    with pytest.raises(openai.BadRequestError, match="keeps no responses"):
        sdk(gateway).responses.retrieve("resp_1")


def test_saying_that_nothing_is_to_be_kept_is_no_reason_to_refuse(gateway: Running, upstream: FakeUpstream) -> None:
    upstream.answers["/v1/responses"] = reply_json(KEPT)
    assert gateway.post(BODY | {"store": False, "background": False}, "/v1/responses").status_code == 200
