"""The body is passed on as it came but for the field that a policy sets."""

import json

import pytest

from wave_serve.errors import ApiError
from wave_serve.request.parsing import parse_object, with_fields
from wave_serve.request.values import shown


@pytest.mark.parametrize(
    "body", [b'{"a":1}', b' {"a" : [1 , 2],\n"t":"\\u00e9 }" } \n', b"{}", '{"ü": "日本"}'.encode()]
)
def test_setting_a_new_field_keeps_every_byte(body: bytes) -> None:
    changed = with_fields(body, json.loads(body), {"max_tokens": 7})
    assert json.loads(changed) == json.loads(body) | {"max_tokens": 7}
    assert changed.startswith(body[: body.rindex(b"}")])


def test_a_field_that_is_there_is_replaced_not_repeated() -> None:
    body = b'{"max_tokens": null, "prompt": "\xc3\xa9"}'
    changed = with_fields(body, json.loads(body), {"max_tokens": 7})
    assert json.loads(changed, object_pairs_hook=list) == [("max_tokens", 7), ("prompt", "é")]


def test_a_field_addressed_to_the_gateway_is_not_passed_on() -> None:
    body = b'{"overflow": "reject", "x": [NaN, 12345678901234567890123, 1e5, "\xc3\xa9"]}'
    changed = with_fields(body, parse_object(body, "application/json"), {}, without=("overflow",))
    assert str(json.loads(changed)) == "{'x': [nan, 12345678901234567890123, 100000.0, 'é']}"


def test_nothing_to_change_leaves_the_body_as_it_came() -> None:
    body = b'{ "x" : 1 }'
    assert with_fields(body, {"x": 1}, {}, without=("overflow",)) is body


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b'"text"', b"nul", b'{"a": "\xff"}', b'{"a": "\\ud800"}', b"[" * 10**5]
)
def test_what_is_not_a_json_object_is_a_400(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        parse_object(body, "application/json; charset=utf-8")
    assert caught.value.status == 400


@pytest.mark.parametrize("content_type", [None, "", "text/plain", "application/x-www-form-urlencoded"])
def test_another_content_type_is_a_415(content_type: str | None) -> None:
    with pytest.raises(ApiError) as caught:
        parse_object(b"{}", content_type)
    assert caught.value.status == 415


def test_long_values_are_described_and_not_repeated() -> None:
    assert shown("x" * 41) == "a string of 41 characters"
    assert shown([1, 2]) == "an array of 2 items"
    assert shown("short") == '"short"'
