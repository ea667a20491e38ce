"""The OpenAPI document names every endpoint, field, header and error, and is what is checked."""

from pathlib import Path

import httpx
import pytest
from helpers.fake_upstream import FakeUpstream
from helpers.python import ROOT
from helpers.running import Running, running, settings_for

from wave_serve.api.docs import OPENAPI_PATH
from wave_serve.api.openapi.document import POSTING, document
from wave_serve.api.openapi.errors import STATUSES, codes_of
from wave_serve.api.routes import router
from wave_serve.errors import Code
from wave_serve.headers import Header
from wave_serve.keys.file import entry_for
from wave_serve.request.fields import ChatRequest, CompletionRequest
from wave_serve.upstream.errors import PASSED_ON


def test_every_endpoint_is_described_with_its_method() -> None:
    served = {(route.path.replace(":text", ""), *sorted(map(str.lower, route.methods))) for route in router.routes}
    paths = document(lambda _path: False)["paths"].items()
    described = {(path, *sorted({*methods, *(["head"] if "get" in methods else [])})) for path, methods in paths}
    assert described == served


def test_every_status_that_an_upstream_may_cause_is_described() -> None:
    assert set(PASSED_ON) <= set(POSTING)
    responses = document(lambda _path: True)["paths"]["/v1/completions"]["post"]["responses"]
    assert set(responses) == {"200", *map(str, POSTING)}


def test_a_key_is_asked_for_where_there_are_keys(upstream: FakeUpstream, tmp_path: Path) -> None:
    keys = tmp_path / "keys.yaml"
    keys.write_text(f"keys:\n{entry_for('sk-wave-0123456789abcdef0123456789abcdef', 'alice', {})}\n")
    for auth, asks in (({}, False), ({"keys_file": str(keys)}, True)):
        with running(settings_for(upstream, auth=auth)) as one:
            found = httpx.get(one.url + OPENAPI_PATH).json()["paths"]
        assert ("security" in found["/v1/completions"]["post"]) == asks
        assert "security" not in found["/health"]["get"]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/context", "/tokenize", "/nowhere"])
def test_every_header_of_an_answer_is_described(gateway: Running, path: str) -> None:
    answer = gateway.post({"prompt": "x" * 200, "overflow": "truncate_head", "max_tokens": 950}, path)
    plain = {"content-type", "content-length", "date", "connection"}
    assert set(answer.headers) - plain <= {header.value for header in Header}


@pytest.mark.parametrize("name", ["other", "a/b", "a%0D%0Ab", "a%0A", "%00"])
def test_a_model_of_any_name_that_is_not_there_is_not_found_as_a_model(gateway: Running, name: str) -> None:
    answer = httpx.get(f"{gateway.url}/v1/models/{name}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


WRONG = {
    "temperature": ("hot", "temperature must be a number"),
    "top_p": (0, "top_p must be above 0, got 0"),
    "top_k": (1.5, "top_k must be an integer, got 1.5"),
    "n": (0, "n must be at least 1, got 0"),
    "repetition_penalty": (5e-324, "repetition_penalty must be at least 1e-30, got 5e-324"),
    "length_penalty": (-1000, "length_penalty must be at least -50.0, got -1000"),
    "seed": (2**63, "seed must be at most"),
    "logit_bias": ({"a": 1}, "logit_bias must be an object from token ids to numbers"),
    "structured_outputs": (
        {"choice": ["a", ""]},
        "structured_outputs has a member choice that must be a list of one or more strings, none of them empty",
    ),
    "bad_words": (["a", 2], "bad_words must be a list of strings, none of them empty, got 2 at 1"),
    "stop": ([1], "stop must be a string or a list of strings"),
    "stop_token_ids": ([True], "stop_token_ids must be a list of token ids"),
    "stream_options": ({"include_usage": 1}, "stream_options has a member include_usage that must be true or false"),
    "echo": ("true", 'echo must be true or false, got "true"'),
    "overflow": ("cut", "overflow must be one of reject"),
    "cache_salt": ("", "cache_salt must be a string of at least 1 characters"),
}


@pytest.mark.parametrize(
    ("bias", "wrong"),
    [
        ({"5": 1, "a": 1}, '"a"'),
        ({"": 1}, '""'),
        ({"-5": 1}, '"-5"'),
        ({"5.0": 1}, '"5.0"'),
        ({"5": 1.5, "6": "x"}, '"6": "x"'),
        ({"5": None}, '"5": null'),
        ({"5": True}, '"5": true'),
        ({"5": [1]}, '"5": an array of 1 items'),
        ([5], "an array of 1 items"),
    ],
)
def test_a_wrong_key_or_value_of_logit_bias_is_named(gateway: Running, bias: object, wrong: str) -> None:
    error = gateway.post({"prompt": "x", "logit_bias": bias}).json()["error"]
    assert error["message"] == f"logit_bias must be an object from token ids to numbers, got {wrong}"
    assert error["param"] == "logit_bias"


@pytest.mark.parametrize(
    ("tools", "wrong"),
    [
        ([], "[]"),
        ([{}], "{} at 0.function"),  # to which vLLM answers 500 where a tool is chosen
        ([{"function": {"name": "f"}}, {"type": "function"}], "an object of 1 items at 1.function"),
        ([{"function": {}}], "{} at 0.function.name"),
        ([{"type": "web", "function": {"name": "f"}}], '"web" at 0.type'),
    ],
)
def test_tools_of_a_chat_are_functions_with_a_name(gateway: Running, tools: list, wrong: str) -> None:
    messages = [{"role": "user", "content": "x"}]
    error = gateway.post({"messages": messages, "tools": tools}, "/v1/chat/completions").json()["error"]
    assert error["message"] == f"tools must be a list of functions, each with a name, got {wrong}"
    assert error["param"] == "tools"


@pytest.mark.parametrize("field", WRONG)
def test_a_field_of_another_kind_is_a_400_that_names_it(gateway: Running, field: str) -> None:
    value, said = WRONG[field]
    answer = gateway.post({"prompt": "x", field: value})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(said)
    assert answer.json()["error"]["param"] == field


def test_null_is_as_good_as_absent(gateway: Running) -> None:
    assert gateway.post(dict.fromkeys(CompletionRequest.model_fields) | {"prompt": "x"}).status_code == 200
    messages = [{"role": "user", "content": "x"}]
    assert (
        gateway.post(dict.fromkeys(ChatRequest.model_fields) | {"messages": messages}, "/v1/context").status_code == 200
    )


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/tokenize", {}, "prompt or messages is required"),
        ("/tokenize", {"prompt": 5}, "prompt must be a string, got 5"),
        ("/detokenize", {"tokens": [1, "a"]}, "tokens must be a list of token ids"),
        ("/detokenize", {}, "tokens is required"),
    ],
)
def test_tokens_and_text_are_checked_too(gateway: Running, path: str, body: dict, said: str) -> None:
    answer = gateway.post(body, path)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]


def test_every_code_of_an_error_is_in_the_document_and_in_the_page_on_clients() -> None:
    named = (ROOT / "docs" / "clients.md").read_text()
    raised = {code.value for code in Code}
    assert {"context_length_exceeded", "queue_full", "upstream_died"} <= raised
    assert [code for code in sorted(raised) if f"`{code}`" not in named] == []
    # Of what is no endpoint of the document, or told before it is known which endpoint is meant.
    unrouted = {"unknown_url", "method_not_allowed", "request_url_too_long", "request_head_too_large"}
    assert raised - unrouted <= {code for status in STATUSES for code in codes_of(status)}
