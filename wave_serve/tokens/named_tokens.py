"""The special tokens that a checkpoint's files name, wherever they do.

The engine reads more files than tokenizer.json: Transformers adds tokens from `extra_special_tokens`,
`added_tokens_decoder`, `*_token`, special_tokens_map.json and added_tokens.json, under names that change with its
versions. So every short string of these files is taken for a token. Some are none, such as "right" under
`padding_side`; asking the engine about those too costs a line more.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
TEMPLATE = "chat_template.jinja"
LONGEST = 100  # characters; what is longer is no token but a template
MARKER = re.compile(r"<[^\s<>{}'\"]+>|\[[A-Z_/]+\]")  # <|im_start|>, </think>, [INST] in the text of a template


def named_tokens(tokenizer: Path) -> list[str]:
    """Contents of all tokens that are named beside a tokenizer.json or in it, sorted.

    A file that is missing or no JSON names none: an engine that needs it does not start.
    """
    found = {token["content"] for token in _read(tokenizer).get("added_tokens") or []}
    for name in FILES:
        for text in _strings(_read(tokenizer.parent / name)):
            found |= {text} if len(text) <= LONGEST else set(MARKER.findall(text))
    found |= set(_read(tokenizer.parent / "added_tokens.json"))  # there the tokens are the keys
    template = tokenizer.parent / TEMPLATE
    if template.is_file():
        found |= set(MARKER.findall(template.read_text(encoding="utf-8", errors="replace")))
    return sorted(found - {""})


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _strings(value: Any) -> Iterator[str]:
    """All strings in a JSON value, keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _strings(one)
