"""What each dialect makes of a body and of an error."""

import pytest

from wave_serve.context.truncation import turns_of
from wave_serve.errors import ApiError, Code, ContextExceededError, invalid
from wave_serve.request.dialects import CHAT, COMPLETIONS, MESSAGES, RESPONSES, Conversation, Dialect
from wave_serve.request.dialects.find import dialect_at, dialect_of
from wave_serve.settings import Overflow

USER = {"role": "user", "content": "x"}
USE = {"type": "tool_use", "id": "a", "name": "f", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "a", "content": "6"}


@pytest.mark.parametrize(
    ("body", "headers", "dialect"),
    [
        ({"prompt": "x"}, {}, COMPLETIONS),
        ({}, {}, COMPLETIONS),
        ({"messages": [USER]}, {}, CHAT),
        ({"input": "x"}, {}, RESPONSES),
        ({"messages": [USER]}, {"anthropic-version": "2023-06-01"}, MESSAGES),
        ({"messages": [USER], "system": "s"}, {}, MESSAGES),
        ({"messages": [USER], "tools": [{"name": "f", "input_schema": {}}]}, {}, MESSAGES),
        ({"messages": [USER], "tools": [{"type": "function", "function": {"name": "f"}}]}, {}, CHAT),
    ],
)
def test_a_bodys_dialect_is_told_by_what_only_it_has(body: dict, headers: dict, dialect: Dialect) -> None:
    assert dialect_of(body, headers) is dialect


@pytest.mark.parametrize("both", [("prompt", "messages"), ("messages", "input"), ("prompt", "input")])
def test_a_body_in_two_dialects_is_refused(both: tuple[str, str]) -> None:
    with pytest.raises(ApiError) as caught:
        dialect_of(dict.fromkeys(both, "x"), {})
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/v1/messages", MESSAGES),
        ("/v1/messages/count_tokens", MESSAGES),
        ("/v1/messagesx", COMPLETIONS),
        ("/v1/responses/resp_1", RESPONSES),
        ("/v1/models", COMPLETIONS),
    ],
)
def test_errors_speak_the_dialect_of_the_path(path: str, dialect: Dialect) -> None:
    assert dialect_at(path) is dialect


@pytest.mark.parametrize(
    ("prompt", "completion", "said"),
    [
        (5000, 8, "prompt is too long: 5000 tokens > 4096 maximum"),
        (4096, 1, "prompt is too long: 4096 tokens > 4095 maximum"),
        (4000, 200, "input length and `max_tokens` exceed context limit: 4000 + 200 > 4096"),
    ],
)
def test_over_the_cap_in_anthropics_words(prompt: int, completion: int, said: str) -> None:
    error = MESSAGES.error_body(ContextExceededError(prompt, completion, 4096, "messages"))
    assert error["type"] == "error"
    assert error["error"]["type"] == "invalid_request_error"
    assert error["error"]["message"].startswith(said)
    assert (error["error"]["n_prompt_tokens"], error["error"]["n_ctx"]) == (prompt, 4096)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
    ],
)
def test_anthropics_types_of_errors(status: int, kind: str) -> None:
    assert MESSAGES.error_body(ApiError(status, "m"))["error"]["type"] == kind


def test_an_engines_own_refusal_over_the_context_is_recognised_too() -> None:
    error = ApiError(400, "This model's maximum context length is 10 tokens.", code=Code.CONTEXT_LENGTH_EXCEEDED)
    assert MESSAGES.error_body(error)["error"]["message"].startswith("prompt is too long: ")


@pytest.mark.parametrize(
    ("dialect", "body", "where"),
    [
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
        (CHAT, {"messages": [USER, {"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[1].content[0]"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "video_url"}]}]}, "messages[0].content[0]"),
        (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]"),
        (
            RESPONSES,
            {"input": [{"type": "function_call_output", "output": [{"type": "input_file"}]}]},
            "input[0].output[0]",
        ),
        (RESPONSES, {"input": [{"type": "image_generation_call"}]}, "input[0]"),
        (MESSAGES, {"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0]"),
        (MESSAGES, {"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "messages[0].content[0]"),
        (
            MESSAGES,
            {"messages": [{"role": "user", "content": [RESULT | {"content": [{"type": "image"}]}]}]},
            "messages[0].content[0].content[0]",
        ),
    ],
)
def test_what_is_no_text_is_refused_where_it_stands(dialect: Conversation, body: dict, where: str) -> None:
    with pytest.raises(ApiError) as caught:
        dialect.check(body)
    assert caught.value.message.startswith(f"{where} has the type ")
    assert caught.value.param == dialect.param


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        (RESPONSES, {}),
        (RESPONSES, {"input": ""}),
        (RESPONSES, {"input": []}),
        (RESPONSES, {"input": ["x"]}),
        (MESSAGES, {}),
        (MESSAGES, {"messages": []}),
        (RESPONSES, {"input": [{"role": ["user"], "content": "x"}]}),
        (RESPONSES, {"input": [{"type": {}}]}),
        (RESPONSES, {"input": [{"role": "user", "content": {}}]}),
        (MESSAGES, {"messages": [{"role": "user", "content": [{"text": "x"}]}]}),
        (MESSAGES, {"messages": [{"role": ["user"], "content": "x"}]}),
        (MESSAGES, {"messages": [{"role": "tool", "content": "x"}]}),
        (MESSAGES, {"messages": [{"role": "user"}]}),
        (MESSAGES, {"messages": [{"role": "user", "content": ["x"]}]}),
    ],
)
def test_a_conversation_that_is_none_is_refused(dialect: Conversation, body: dict) -> None:
    with pytest.raises(ApiError) as caught:
        dialect.check(body)
    assert caught.value.param == dialect.param


@pytest.mark.parametrize(
    ("body", "overflow", "truncates"),
    [
        ({}, None, False),
        ({"truncation": "disabled"}, Overflow.REJECT, False),
        ({"truncation": "auto"}, None, True),
        ({"truncation": "auto", "overflow": "truncate_tail"}, Overflow.TRUNCATE_TAIL, False),
    ],
)
def test_truncation_is_a_policy(body: dict, overflow: Overflow | None, truncates: bool) -> None:
    read = RESPONSES.read({"input": "x", **body})
    assert (read.overflow, read.truncates) == (overflow, truncates)


def test_an_unknown_truncation_is_named() -> None:
    with pytest.raises(ApiError) as caught:
        RESPONSES.read({"input": "x", "truncation": "some"})
    assert caught.value.message == 'truncation must be one of auto, disabled, got "some"'


def droppable(dialect: Conversation, parts: list[dict]) -> tuple:
    return turns_of([dialect.entry(part) for part in parts]).droppable


def test_a_call_and_its_result_go_together() -> None:
    call = {"role": "assistant", "content": [USE]}
    result = {"role": "user", "content": [RESULT, {"type": "text", "text": "and mind this"}]}
    assert droppable(MESSAGES, [USER, call, result, call, result, call, result]) == ((1, 2), (3, 4))
    said = {"role": "assistant", "content": "y"}
    assert droppable(MESSAGES, [USER, call, result, said, USER, call, result, said]) == ((0, 1, 2, 3), (5, 6))


def test_parallel_calls_stay_with_all_their_results() -> None:
    def item(kind: str, call: str) -> dict:
        return {"type": kind, "call_id": call}

    thought, one, two = {"type": "reasoning"}, ("function_call", "a"), ("function_call", "b")
    first, second = ("function_call_output", "a"), ("function_call_output", "b")
    items = [USER, thought, item(*one), item(*two), item(*first), item(*second), thought, item(*one), item(*first)]
    assert droppable(RESPONSES, items) == ((1, 2, 3, 4, 5),)
    late = [USER, item(*one), item(*two), item(*first), {"role": "assistant"}, item(*second), item(*one), item(*first)]
    assert droppable(RESPONSES, late) == ((1, 2, 3, 4, 5),)


def test_a_call_whose_result_comes_after_the_last_question_stays() -> None:
    call = {"role": "assistant", "tool_calls": [{"id": "a"}]}
    result = {"role": "tool", "tool_call_id": "a"}
    assert droppable(CHAT, [USER, {"role": "assistant"}, USER, call, USER, result]) == ((0, 1),)
    assert droppable(CHAT, [call | {"role": "system"}, USER]) == ()
    other = [{"role": "assistant", "tool_calls": [{"id": "b"}]}, {"role": "tool", "tool_call_id": "b"}]
    said = {"role": "assistant"}
    assert droppable(CHAT, [USER, said, USER, call, USER, result, *other, said]) == ((0, 1), (6, 7))


def test_a_plain_error_stays_openais_where_no_other_dialect_is_spoken() -> None:
    error = invalid("m", "prompt")
    assert COMPLETIONS.error_body(error) == CHAT.error_body(error) == RESPONSES.error_body(error) == error.body()
