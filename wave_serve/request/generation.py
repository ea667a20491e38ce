"""Reads from a request only what the cap's policy needs; everything else is the engine's to validate."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from wave_serve.errors import invalid
from wave_serve.request.values import json_kind, shown
from wave_serve.settings import Overflow

TEXT_PARTS = ("text", "input_text", "output_text", "refusal", "thinking")  # as vLLM reads them
Prompt: TypeAlias = "str | list[int] | array[int]"


class Api(Protocol):
    """What a generation needs to know of the API that it is written in; `dialects` has them."""

    @property
    def param(self) -> str:
        """The field that holds the prompt."""


@dataclass(frozen=True)
class Generation:
    """A request for a generation: its fields that the policy reads.

    Attributes:
        payload: the parsed body.
        dialect: the API that it is written in.
        n: completions of each prompt.
        max_tokens: longest completion asked for, in tokens; None where the body names none.
        max_tokens_field: the field that holds it, or is to hold it.
        stream: whether the answer is to be server-sent events.
        overflow: what is to happen to a prompt over the cap; None where that is the model's policy.
        truncates: whether a prompt over the cap is to be cut even where the model's policy is to reject it.
        min_tokens: shortest completion asked for, in tokens.
        kept: the field that needs an upstream that keeps responses; None without.
        stored: whether an upstream that keeps responses is to keep this one.
        earlier: tokens of the kept response that it goes on from.
        holder: URL of the upstream that has that response.
    """

    payload: Mapping[str, Any]
    dialect: Api
    n: int
    max_tokens: int | None
    max_tokens_field: str
    stream: bool
    overflow: Overflow | None
    truncates: bool = False
    kept: str | None = None
    stored: bool = False
    min_tokens: int = 0
    earlier: int = 0
    holder: str | None = None

    @property
    def param(self) -> str:
        """The field that holds the prompt."""
        return self.dialect.param


def read_prompts(payload: Mapping[str, Any]) -> list[Prompt]:
    """The prompts of a completion request; token ids are not looked at one by one yet. Raises ApiError 400."""
    value = payload.get("prompt")
    if value is None:
        raise invalid("prompt is required", "prompt")
    if isinstance(value, str | array):
        prompts: list[Prompt] = [value]
    elif not isinstance(value, list):
        raise invalid(
            f"prompt must be a string, strings, token ids or lists of token ids, got {shown(value)}", "prompt"
        )
    elif value and _is_id(value[0]):
        prompts = [value]
    else:
        kind = _kind(value[0]) if value else str
        for index, entry in enumerate(value):
            if kind not in (str, list) or _kind(entry) is not kind:
                raise invalid(
                    f"prompt[{index}] must be like the others a string or a list, got {shown(entry)}", "prompt"
                )
        prompts = value
    if not prompts or any(len(prompt) == 0 for prompt in prompts):
        raise invalid(f"prompt must not be empty, got {shown(value)}", "prompt")
    return prompts


def check_messages(payload: Mapping[str, Any]) -> None:
    """The messages of a chat request have a shape that a template can take. Raises ApiError 400."""
    messages = payload.get("messages")
    if not isinstance(messages, list) or not messages:
        raise invalid(f"messages must be a list of one or more messages, got {shown(messages)}", "messages")
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, dict):
            raise invalid(f"{where} must be an object, got {shown(message)}", "messages")
        if not isinstance(message.get("role"), str):
            raise invalid(f"{where}.role must be a string, got {shown(message.get('role'))}", "messages")
        content = message.get("content")
        if not isinstance(content, str | list | None):
            raise invalid(f"{where}.content must be a string or parts, got {shown(content)}", "messages")
        for place, part in enumerate(content if isinstance(content, list) else ()):
            _check_part(part, f"{where}.content[{place}]")


def _check_part(part: object, where: str) -> None:
    """A part of a message is a text or an object that says its type, and has the text where that is text."""
    if isinstance(part, str):
        return
    if not isinstance(part, dict):
        raise invalid(f"{where} must be a string or an object, got {shown(part)}", "messages")
    if not isinstance(part.get("type"), str):
        raise invalid(f"{where}.type must be a string, got {shown(part.get('type'))}", "messages")
    if part["type"] not in TEXT_PARTS:
        said = f"{where} has the type {part['type']!r}: only text is supported, no images, audio or files"
        raise invalid(said, "messages")
    if part["type"] == "text" and not isinstance(part.get("text"), str):
        raise invalid(f"{where}.text must be a string, got {shown(part.get('text'))}", "messages")


def check_token_ids(ids: Sequence[int], vocab_size: int | None) -> None:
    """Every id is a whole number from 0 to below `vocab_size` (if known). Raises ApiError 400 naming the first."""
    whole = isinstance(ids, array) or set(map(type, ids)) == {int}
    if whole and min(ids) >= 0 and (vocab_size is None or max(ids) < vocab_size):
        return
    for index, token in enumerate(ids):
        if not _is_id(token):
            raise invalid(f"prompt[{index}] must be a token id, got {json_kind(token)}: {shown(token)}", "prompt")
        if token < 0 or (vocab_size is not None and token >= vocab_size):
            bound = "not negative" if vocab_size is None else f"from 0 to {vocab_size - 1}"
            raise invalid(f"prompt[{index}] is out of range: token ids are {bound}, got {token}", "prompt")


def check_sequences(generation: Generation, prompts: int, most: int) -> None:
    """Refuses a request for more than `most` completions. Raises ApiError 400."""
    total = generation.n * prompts
    if generation.n > most:
        raise invalid(f"n must be at most {most}, got {generation.n}", "n")
    if total > most:
        message = f"at most {most} completions per request, got {total} ({prompts} prompts, n = {generation.n})"
        raise invalid(message, "prompt")


def _kind(entry: object) -> type:
    """The kind of a prompt; an array is a list of token ids."""
    return list if isinstance(entry, array) else type(entry)


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
