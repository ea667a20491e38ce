"""What the worker process does for the gateway because it would hold the event loop: it parses, edits and tokenises."""

import struct
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic_core import from_json, to_json

LENGTH = struct.Struct(">Q")
MOST_VALUES = 200_000  # beside token ids: unpickling this many takes the gateway some milliseconds


def parse_json(body: bytes) -> Any:
    """The JSON value in `body`, with whole token ids under `prompt` as integers. Raises ValueError."""
    try:
        value = from_json(body)
    except ValueError as error:
        if "recursion limit" in str(error):
            raise ValueError("The body is nested too deep: about 200 levels are read") from None
        raise ValueError(f"The body is not valid JSON: {error}") from None
    if isinstance(value, dict) and isinstance(value.get("prompt"), list):
        value["prompt"] = (
            [whole(one) for one in value["prompt"]] if _nested(value["prompt"]) else whole(value["prompt"])
        )
    return value


def whole(value: Any) -> Any:
    """A whole number as an integer, for 2.0 is one to JSON, and a list with its whole numbers so; else the value."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list) and float in set(map(type, value)):
        return [whole(one) for one in value]
    return value


def parse(body: bytes) -> Any:
    """The JSON value in `body`, with lists of token ids under `prompt` as arrays of 64-bit integers.

    Raises:
        ValueError: not JSON, or so many values that the gateway would be busy with them.
    """
    value = parse_json(body)
    if isinstance(value, dict) and isinstance(value.get("prompt"), list):
        value["prompt"] = _packed(value["prompt"])
    if _values(value, MOST_VALUES) > MOST_VALUES:
        raise ValueError(f"The body holds more than {MOST_VALUES} values beside token ids")
    return value


def edit(body: bytes, changes: Mapping[str, Any], without: Sequence[str]) -> bytes:
    """The JSON object in `body` with some fields set and others left out."""
    kept = {field: value for field, value in from_json(body).items() if field not in without}
    return to_json({**kept, **changes}, inf_nan_mode="constants")


def encode(path: str, texts: Sequence[str], add_special_tokens: bool) -> "list[array[int]]":
    """Token ids of texts by a tokenizer.json file."""
    tokenizer = _tokenizer(path)
    encoded = tokenizer.encode_batch_fast(list(texts), add_special_tokens=add_special_tokens)
    return [array("i", one.ids) for one in encoded]


OPERATIONS: dict[str, Callable[..., Any]] = {"parse": parse, "edit": edit, "encode": encode}
_tokenizers: dict[str, Any] = {}


def _nested(prompt: list[Any]) -> bool:
    """Whether it is a list of lists of token ids."""
    return bool(prompt) and isinstance(prompt[0], list)


def _packed(prompt: list[Any]) -> "list[Any] | array[int]":
    """A list of token ids, or of such lists, with arrays in their place; another list as it is."""
    kinds = set(map(type, prompt))
    if kinds == {int}:
        try:
            return array("q", prompt)
        except OverflowError:
            return prompt
    return [_packed(one) for one in prompt] if kinds == {list} else prompt


def _values(value: Any, most: int) -> int:
    """How many JSON values there are, counted up to little more than `most`; an array is one."""
    found = 0
    pending = [value]
    while pending and found <= most:
        one = pending.pop()
        found += 1
        if isinstance(one, dict):
            pending.extend(one.values())
        elif isinstance(one, list):
            found += max(0, len(one) - most)  # a flat list of too many needs no look inside
            pending.extend(one[:most])
    return found


def _tokenizer(path: str) -> Any:
    if path not in _tokenizers:
        from tokenizers import Tokenizer

        _tokenizers[path] = Tokenizer.from_file(path)
        _tokenizers[path].no_truncation()
        _tokenizers[path].no_padding()
    return _tokenizers[path]
