"""Reading of what the cap needs; each refusal names field and value."""

import pytest

from wave_serve.context.catalogue import read_model
from wave_serve.errors import ApiError
from wave_serve.request.dialects import CHAT, COMPLETIONS
from wave_serve.request.fields import ChatRequest, check_fields
from wave_serve.request.generation import (
    check_messages,
    check_sequences,
    check_token_ids,
    read_prompts,
)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [("a", ["a"]), (["a", "bc"], ["a", "bc"]), ([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]])],
)
def test_the_four_kinds_of_prompt(prompt: object, expected: list) -> None:
    assert read_prompts({"prompt": prompt}) == expected


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (None, "prompt is required"),
        ("", 'prompt must not be empty, got ""'),
        ([], "prompt must not be empty, got []"),
        ([[]], "prompt must not be empty"),
        (["a", ""], "prompt must not be empty"),
        (7, "got 7"),
        (True, "got true"),
        ({"text": "a"}, "got an object of 1 items"),
        ([True], "prompt[0] must be like the others a string or a list, got true"),
        ([1.5], "prompt[0] must be like the others a string or a list, got 1.5"),
        (["a", 1], "prompt[1] must be like the others"),
        ([[1], "a"], "prompt[1] must be like the others"),
    ],
)
def test_other_prompts_are_refused(prompt: object, said: str) -> None:
    with pytest.raises(ApiError) as caught:
        read_prompts({"prompt": prompt})
    assert said in caught.value.message
    assert caught.value.param == "prompt"


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ([1, 100], "prompt[1] is out of range: token ids are from 0 to 99, got 100"),
        ([-1], "prompt[0] is out of range: token ids are from 0 to 99, got -1"),
        ([1, "a"], 'prompt[1] must be a token id, got a string: "a"'),
        ([1, True], "prompt[1] must be a token id, got a boolean: true"),
        ([1, 2.0], "prompt[1] must be a token id, got a number: 2.0"),
        ([1, [2]], "prompt[1] must be a token id, got an array: an array of 1 items"),
    ],
)
def test_token_ids_out_of_range_or_of_another_type_are_named(ids: list, said: str) -> None:
    with pytest.raises(ApiError) as caught:
        check_token_ids(ids, 100)
    assert caught.value.message == said


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stream", "yes"),
        ("stream", 1),
        ("n", 0),
        ("n", "2"),
        ("max_tokens", -1),
        ("max_tokens", True),
        ("max_tokens", 2.5),
        ("truncate_prompt_tokens", 5),
        ("prompt_embeds", "AA=="),
        ("suffix", "return x"),
        ("previous_input_messages", [{"role": "user", "content": "hello"}]),
    ],
)
def test_fields_that_the_policy_reads_are_checked(field: str, value: object) -> None:
    with pytest.raises(ApiError) as caught:
        COMPLETIONS.read({field: value})
    assert caught.value.param == field


@pytest.mark.parametrize(
    ("field", "value", "read"),
    [
        ("n", 2.0, 2),
        ("max_tokens", 16.0, 16),
        ("max_completion_tokens", 1e3, 1000),
        ("min_tokens", 0.0, 0),
        ("top_k", -1.0, -1),
        ("seed", -0.0, 0),
        ("priority", -(2.0**63), -(2**63)),
        ("stop_token_ids", [1.0, 2], [1, 2]),
    ],
)
def test_a_whole_number_is_an_integer_however_it_is_written(field: str, value: object, read: object) -> None:
    found = getattr(check_fields({field: value}, ChatRequest), field)
    assert found == read
    assert {type(one) for one in (found if isinstance(found, list) else [found])} == {int}


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("n", 2.5, "n must be an integer, got 2.5"),
        ("n", 0.0, "n must be at least 1, got 0.0"),
        ("max_tokens", 1e300, "max_tokens must be at most 9223372036854775807, got 1e+300"),
        ("max_tokens", float("inf"), "max_tokens must be an integer, got Infinity"),
        ("seed", "1", 'seed must be an integer, got "1"'),
        ("stop_token_ids", [1.5], "stop_token_ids must be a list of token ids, got 1.5 at 0"),
        ("stop_token_ids", [-1.0], "stop_token_ids must be a list of token ids, got -1 at 0"),
    ],
)
def test_other_numbers_are_no_integers(field: str, value: object, said: str) -> None:
    with pytest.raises(ApiError) as caught:
        COMPLETIONS.read({field: value})
    assert (caught.value.message, caught.value.param) == (said, field)


def test_max_completion_tokens_goes_before_max_tokens_in_chat_only() -> None:
    both = {"max_tokens": 5, "max_completion_tokens": 7}
    assert CHAT.read(both).max_tokens == 7
    assert COMPLETIONS.read(both).max_tokens == 5
    assert CHAT.read({"max_tokens": None}).max_tokens is None


@pytest.mark.parametrize(("n", "prompts", "param"), [(1000, 1, "n"), (10, 13, "prompt"), (1, 129, "prompt")])
def test_too_many_completions_are_refused(n: int, prompts: int, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        check_sequences(COMPLETIONS.read({"n": n}), prompts, 128)
    assert caught.value.param == param
    check_sequences(COMPLETIONS.read({"n": 8}), 16, 128)


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (None, "got null"),
        ([], "got []"),
        ("hi", 'got "hi"'),
        (["hi"], 'messages[0] must be an object, got "hi"'),
        ([{"content": "hi"}], "messages[0].role must be a string, got null"),
        ([{"role": "user", "content": 5}], "messages[0].content must be a string or parts, got 5"),
        ([{"role": "user", "content": ["a", 5]}], "messages[0].content[1] must be a string or an object, got 5"),
        ([{"role": "user", "content": [{"text": "a"}]}], "messages[0].content[0].type must be a string, got null"),
        ([{"role": "user", "content": [{"type": ["text"]}]}], "messages[0].content[0].type must be a string, got an"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text must be a string, got null"),
    ],
)
def test_messages_of_another_shape_are_refused(messages: object, said: str) -> None:
    with pytest.raises(ApiError) as caught:
        check_messages({"messages": messages})
    assert said in caught.value.message


def test_the_model_may_be_left_out_where_there_is_one() -> None:
    assert read_model({}, ["only"]) == "only"
    with pytest.raises(ApiError) as caught:
        read_model({}, ["one", "two"])
    assert caught.value.status == 400
    with pytest.raises(ApiError) as caught:
        read_model({"model": "three"}, ["one", "two"])
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")
