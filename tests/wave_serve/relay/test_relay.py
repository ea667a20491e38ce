"""What passes through the gateway, with an upstream that does as told."""

import json
import logging
from pathlib import Path

import httpx
import openai
import pytest
from helpers.fake_upstream import DONE, Connection, FakeUpstream, delta, reply_json, stream
from helpers.running import Running, running, sdk, settings_for

from wave_serve.keys.file import entry_for

KEY = "sk-wave-0123456789abcdef0123456789abcdef"
BODY = {"model": "fake", "prompt": "hello", "max_tokens": 5}


def test_the_body_is_passed_on_as_it_came(gateway: Running, upstream: FakeUpstream) -> None:
    body = b'{ "model": "fake", "prompt":"h\\u00e9", "max_tokens" : 5,\n "unknown": {"kept": [1.50]} }'
    headers = {"content-type": "application/json", "x-request-id": "mine-1", "traceparent": "00-ab-cd-01"}
    answer = httpx.post(f"{gateway.url}/v1/completions", content=body, headers=headers)
    sent = upstream.requests[-1]
    assert sent.body == body
    assert sent.headers["x-request-id"] == "mine-1"
    assert sent.headers["traceparent"] == "00-ab-cd-01"
    assert answer.headers["x-request-id"] == "mine-1"
    assert answer.json()["choices"][0]["text"] == "ok"


@pytest.mark.parametrize("large_body_bytes", [2**20, 1])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"])
def test_a_field_that_is_null_is_not_passed_on(upstream: FakeUpstream, path: str, large_body_bytes: int) -> None:
    messages = [{"role": "user", "content": None}, {"role": "user", "content": "x"}]
    given = {
        "/v1/completions": {"prompt": "x", "max_tokens": 5, "stream_options": None, "suffix": None},
        "/v1/chat/completions": {"messages": messages, "max_tokens": 5, "tool_choice": None, "echo": None},
        "/tokenize": {"prompt": "x", "messages": None, "add_special_tokens": None},
        "/detokenize": {"tokens": [1]},
    }[path]
    came: list[dict] = []

    async def note(connection: Connection) -> None:
        came.append(json.loads(connection.body))
        await reply_json({"tokens": [1, 2], "count": 2, "choices": []})(connection)

    nulls = dict.fromkeys(("skip_special_tokens", "use_beam_search", "request_id", "unknown", "model"))
    with running(settings_for(upstream, large_body_bytes=large_body_bytes)) as one:
        upstream.answers |= {path: note, "/tokenize": note}
        assert one.post(nulls | given, path).status_code == 200
    kept = {field: value for field, value in given.items() if value is not None}
    assert came[-1] == kept | {"model": "fake"}


def test_an_absent_max_tokens_is_what_is_left_up_to_the_default(gateway: Running, upstream: FakeUpstream) -> None:
    gateway.post({"model": "fake", "prompt": "x" * 899})
    assert json.loads(upstream.requests[-1].body)["max_tokens"] == 100
    gateway.post({"model": "fake", "prompt": "x", "max_tokens": None})
    assert json.loads(upstream.requests[-1].body)["max_tokens"] == 256


def test_the_default_is_at_least_min_tokens(gateway: Running, upstream: FakeUpstream) -> None:
    assert gateway.post({"prompt": "x", "min_tokens": 400.0}).status_code == 200
    assert json.loads(upstream.requests[-1].body)["max_tokens"] == 400
    refused = gateway.post({"prompt": "x" * 800, "min_tokens": 400}).json()["error"]
    assert (refused["code"], refused["param"]) == ("context_length_exceeded", "prompt")
    assert "400 for the completion" in refused["message"]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/completions", {"logprobs": -1}),
        ("/v1/completions", {"prompt_logprobs": -1}),
        ("/v1/chat/completions", {"top_logprobs": -1, "logprobs": True}),
    ],
)
def test_all_log_probabilities_are_the_engines_to_judge(
    gateway: Running, upstream: FakeUpstream, path: str, fields: dict
) -> None:
    upstream.answers["/v1/chat/completions"] = reply_json({"choices": []})
    prompt = {"prompt": "x"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "x"}]}
    assert gateway.post(prompt | fields, path).status_code == 200
    assert json.loads(upstream.requests[-1].body).items() >= fields.items()
    name = next(iter(fields))
    assert (
        gateway.post(prompt | fields | {name: -2}, path).json()["error"]["message"]
        == f"{name} must be at least -1, got -2"
    )


@pytest.mark.parametrize(
    ("header", "field", "used"),
    [
        (None, "mine-1", "mine-1"),
        ("theirs", "mine-1", "theirs"),
        ("not usable", "mine-1", "mine-1"),
        (None, "not usable", None),
        (None, "x" * 129, None),
        (None, "", None),
        (None, 7, None),
        (None, None, None),
    ],
)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/context", "/tokenize"])
def test_a_bodys_request_id_counts_where_no_header_came(
    gateway: Running, upstream: FakeUpstream, path: str, header: str | None, field: object, used: str | None
) -> None:
    headers = {} if header is None else {"x-request-id": header}
    answer = gateway.post({"prompt": "x", "request_id": field}, path, headers=headers)
    found = answer.headers["x-request-id"]
    assert found == used if used is not None else found not in ("", "None", field)
    if path == "/v1/completions":
        assert upstream.requests[-1].headers["x-request-id"] == found


def test_of_the_headers_that_vllm_reads_session_and_priority_are_passed_on(
    gateway: Running, upstream: FakeUpstream
) -> None:
    given = {"X-Session-ID": "s-1", "X-Vllm-Priority": "-3", "X-data-parallel-rank": "1", "X-Other": "x"}
    gateway.post(BODY, headers=given)
    sent = upstream.requests[-1].headers
    assert (sent["x-session-id"], sent["x-vllm-priority"]) == ("s-1", "-3")
    assert {"x-data-parallel-rank", "x-other"} & sent.keys() == set()
    gateway.post(BODY)
    assert {"x-session-id", "x-vllm-priority"} & upstream.requests[-1].headers.keys() == set()


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ({}, ("fake", None)),
        ({"root": "/models/fake", "parent": None}, ("/models/fake", None)),
        ({"root": "/adapters/fake", "parent": "base"}, ("/adapters/fake", "base")),
        ({"root": None, "parent": 3}, ("fake", None)),
    ],
)
def test_models_have_the_root_and_parent_that_the_engine_tells(
    upstream: FakeUpstream, told: dict, shown: tuple
) -> None:
    upstream.answers["/v1/models"] = reply_json({"data": [{"id": "fake", "max_model_len": 1000} | told]})
    with running(settings_for(upstream)) as one:
        card = httpx.get(f"{one.url}/v1/models").json()["data"][0]
        assert httpx.get(f"{one.url}/v1/models/fake").json() == card
    assert (card["root"], card["parent"]) == shown


def test_an_absent_max_tokens_of_a_chat_is_filled_in_too(gateway: Running, upstream: FakeUpstream) -> None:
    upstream.answers["/v1/chat/completions"] = reply_json({"choices": []})
    gateway.post({"model": "fake", "messages": [{"role": "user", "content": "x"}]}, "/v1/chat/completions")
    assert json.loads(upstream.requests[-1].body)["max_completion_tokens"] == 256


def test_chat_without_a_template_is_a_clear_400(gateway: Running, upstream: FakeUpstream) -> None:
    said = "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template."
    upstream.answers["/tokenize"] = reply_json({"error": {"message": said, "code": 400}}, "400 Bad Request")
    with pytest.raises(openai.BadRequestError) as caught:
        sdk(gateway).chat.completions.create(model="fake", messages=[{"role": "user", "content": "x"}])
    assert caught.value.code == "no_chat_template"
    assert "use /v1/completions" in caught.value.message


def test_a_too_large_max_tokens_is_clamped_only_where_the_settings_say_so(upstream: FakeUpstream) -> None:
    with running(settings_for(upstream, model={"clamp_max_tokens": True})) as one:
        answer = one.post({"model": "fake", "prompt": "x" * 99, "max_tokens": 5000})
    assert json.loads(upstream.requests[-1].body)["max_tokens"] == 900
    assert answer.headers["x-wave-clamped-max-tokens"] == "900"


def test_of_several_prompts_the_longest_decides(gateway: Running, upstream: FakeUpstream) -> None:
    ids = [[1] * 30, [1] * 990, [1] * 7]
    assert gateway.post({"model": "fake", "prompt": ids, "max_tokens": 10}).status_code == 200
    refused = gateway.post({"model": "fake", "prompt": ids, "max_tokens": 11})
    assert refused.json()["error"]["n_prompt_tokens"] == 990
    texts = ["x", "x" * 1200]
    assert gateway.post({"model": "fake", "prompt": texts}).json()["error"]["n_prompt_tokens"] == 1201


def test_a_refused_request_reaches_no_upstream(gateway: Running, upstream: FakeUpstream) -> None:
    for prompt in ("x" * 2000, [1] * 2000):
        assert gateway.post({"model": "fake", "prompt": prompt}).status_code == 400
    assert "/v1/completions" not in [request.path for request in upstream.requests]


def test_a_stream_arrives_byte_for_byte(gateway: Running, upstream: FakeUpstream) -> None:
    sent = [delta("a"), b": note\n\n", delta("b"), DONE]
    upstream.answers["/v1/completions"] = stream(*sent)
    answer = gateway.post(BODY | {"stream": True})
    assert answer.content == b"".join(sent)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["x-wave-context-tokens"] == "6"


def test_comments_keep_a_stream_alive_before_and_between_the_upstreams_bytes(upstream: FakeUpstream) -> None:
    async def slow_start(connection) -> None:
        await __import__("asyncio").sleep(0.5)
        await stream(delta("a"), 0.5, delta("b"), DONE)(connection)

    upstream.answers["/v1/completions"] = slow_start
    with running(settings_for(upstream, timeouts={"keep_alive": 0.1})) as one:
        content = one.post(BODY | {"stream": True}).content
        before, between = content.split(delta("a"))
        assert before.count(b": keep-alive\n\n") >= 2
        assert between.count(b": keep-alive\n\n") >= 2
        assert content.replace(b": keep-alive\n\n", b"") == delta("a") + delta("b") + DONE
        texts = [chunk.choices[0].text for chunk in sdk(one).completions.create(**BODY, stream=True)]
        assert texts == ["a", "b"]


def test_a_failure_of_our_own_is_a_500_in_openais_shape(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.gateway.catalogue, "find", lambda _name: 1 / 0)
    answer = gateway.post(BODY)
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "ZeroDivision" not in answer.text
    assert answer.headers["x-request-id"]
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("given", ["", "has space", "x" * 129, "tab\tbed"])
def test_an_unusable_request_id_is_replaced(gateway: Running, given: str) -> None:
    answer = httpx.get(f"{gateway.url}/health", headers={"x-request-id": given})
    assert answer.headers["x-request-id"] not in ("", given)


def test_a_slash_at_the_end_of_a_path_changes_nothing(upstream: FakeUpstream, tmp_path: Path) -> None:
    keys = tmp_path / "keys.yaml"
    keys.write_text(f"keys:\n{entry_for(KEY, 'alice', {})}\n")
    upstream.answers |= {
        "/v1/chat/completions": reply_json({"choices": []}),
        "/detokenize": reply_json({"prompt": "a"}),
    }
    bodies = {
        "/v1/completions": BODY,
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}]},
        "/v1/context": BODY,
        "/tokenize": {"prompt": "x"},
        "/detokenize": {"tokens": [1]},
    }
    pages = ("/health", "/ready", "/metrics", "/docs", "/openapi.json", "/v1/models", "/v1/models/fake")
    bearer = {"authorization": f"Bearer {KEY}"}
    with running(settings_for(upstream, auth={"keys_file": str(keys)})) as one:
        for path, body in bodies.items():
            plain, slash = (one.post(body, path + end, headers=bearer) for end in ("", "/"))
            assert (slash.status_code, slash.json()) == (200, plain.json())
            assert one.post(body, path + "/").status_code == 401
        for path in pages:
            plain, slash = (httpx.get(one.url + path + end, headers=bearer) for end in ("", "//"))
            assert (slash.status_code, slash.headers["content-type"]) == (200, plain.headers["content-type"])
        assert httpx.get(f"{one.url}/v1/models/", headers=bearer).json()["data"][0]["id"] == "fake"
        assert [httpx.get(f"{one.url}{path}").status_code for path in ("/health/", "/ready/", "/v1/models/")] == [
            200,
            200,
            401,
        ]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "unknown_url"),
        ("POST", "/v1/embeddings", 404, "unknown_url"),
        ("GET", "/v1/models/other/", 404, "model_not_found"),
        ("POST", "/v1/embeddings/", 404, "unknown_url"),
        ("GET", "/v1/models/org/other", 404, "model_not_found"),
        ("GET", "/v1/completions", 405, "method_not_allowed"),
        ("DELETE", "/health", 405, "method_not_allowed"),
    ],
)
def test_other_paths_and_methods_are_answered_in_openais_shape(
    gateway: Running, method: str, path: str, status: int, code: str
) -> None:
    answer = httpx.request(method, gateway.url + path)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_a_413(upstream: FakeUpstream, chunked: bool) -> None:
    with running(settings_for(upstream, max_body_bytes=1000)) as one:
        parts = (b"x" * 10**5 for _ in range(100))  # far more than fits into the sockets' buffers
        content = parts if chunked else b"x" * 10**7
        answer = httpx.post(f"{one.url}/v1/completions", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"


def test_models_show_the_least_limit(upstream: FakeUpstream) -> None:
    with running(settings_for(upstream, model={"max_extrapolation": 2})) as one:
        assert httpx.get(f"{one.url}/v1/models").json()["data"][0]["max_model_len"] == 200
        assert httpx.get(f"{one.url}/v1/models/fake").json()["train_length"] == 100


def test_nothing_of_prompt_or_answer_is_logged_or_measured(
    gateway: Running, upstream: FakeUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    upstream.answers["/v1/completions"] = stream(delta("canary-answer"), DONE)
    with caplog.at_level(logging.DEBUG, "wave_serve"):
        gateway.post({"model": "fake", "prompt": "canary-prompt", "max_tokens": 3, "stream": True})
        gateway.post({"model": "canary-model", "prompt": "canary-prompt"})
        gateway.post({"model": "fake", "prompt": ["canary-prompt", 5]})
    (line,) = [
        record.fields
        for record in caplog.records
        if record.fields.get("path") == "/v1/completions" and record.fields["status"] == 200
    ]
    assert line["prompt_tokens"] == len("canary-prompt") + 1
    assert line["completion_limit"] == 3
    everything = str([vars(record) for record in caplog.records]) + httpx.get(f"{gateway.url}/metrics").text
    assert "canary" not in everything


def test_metrics_count_what_happened(gateway: Running) -> None:
    gateway.post(BODY)
    gateway.post({"model": "fake", "prompt": "x" * 2000})
    text = httpx.get(f"{gateway.url}/metrics").text
    assert 'wave_requests_total{endpoint="/v1/completions",status="200"} 1.0' in text
    assert 'wave_rejected_total{code="context_length_exceeded"} 1.0' in text
    assert 'wave_prompt_tokens_sum{model="fake"} 6.0' in text
    assert 'wave_in_flight_requests{model="fake"} 0.0' in text
    assert f'wave_upstream_ready{{base_url="{gateway.gateway.upstreams[0].base_url}"}} 1.0' in text


def test_prompts_are_counted_upstream_where_the_tokenizers_differ(
    upstream: FakeUpstream, checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    with running(settings_for(upstream, model={"tokenizer": checkpoint / "tokenizer.json"})) as one:
        answer = one.post(BODY)
    assert answer.headers["x-wave-context-tokens"] == "6"
    assert "tokenizer differs; counting upstream" in [record.message for record in caplog.records]
