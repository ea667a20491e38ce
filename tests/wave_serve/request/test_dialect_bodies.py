"""Bodies of responses and of Anthropic's messages whose members are of another kind are refused by name."""

import pytest

from wave_serve.errors import ApiError
from wave_serve.request.dialects import MESSAGES, RESPONSES


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({"role": ["user"], "content": "x"}, "input[0].role must be a string, got an array of 1 items"),
        ({"type": {"a": 1}}, "input[0].type must be a string, got an object of 1 items"),
        ({"type": "function_call", "call_id": 5}, "input[0].call_id must be a string, got 5"),
    ],
)
def test_items_of_another_shape_are_refused(item: dict, said: str) -> None:
    with pytest.raises(ApiError) as caught:
        RESPONSES.check({"input": [item]})
    assert (caught.value.message, caught.value.param) == (said, "input")


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"role": ["user"], "content": "x"}, "messages[0].role must be one of user, assistant, system, got an array"),
        ({"role": "user", "content": [{}]}, "messages[0].content[0].type must be a string, got null"),
        ({"role": "user", "content": [{"type": [1]}]}, "messages[0].content[0].type must be a string, got an array"),
    ],
)
def test_messages_of_another_shape_are_refused(message: dict, said: str) -> None:
    with pytest.raises(ApiError) as caught:
        MESSAGES.check({"messages": [message]})
    assert caught.value.message.startswith(said)


def test_whole_numbers_are_integers_in_every_dialect() -> None:
    assert MESSAGES.read({"max_tokens": 16.0, "top_k": 5.0}).max_tokens == 16
    assert RESPONSES.read({"max_output_tokens": 16.0, "top_logprobs": -1.0}).max_tokens == 16


def test_metadata_of_a_response_that_is_no_text_is_named() -> None:
    with pytest.raises(ApiError) as caught:
        RESPONSES.read({"input": "x", "metadata": {"a": "b", "c": [1]}})
    expected = 'metadata must be an object from names to strings, got "c": an array of 1 items'
    assert (caught.value.message, caught.value.param) == (expected, "metadata")
