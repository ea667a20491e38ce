"""Reads YAML files of settings; a mistake is named with its key, line and column, and the closest valid key."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, RootModel, ValidationError

from wave_serve.settings import Settings
from wave_serve.settings.errors import SettingsError
from wave_serve.settings.secret import UNSHOWN
from wave_serve.settings.section import redacted
from wave_serve.settings.yaml_text import KeyPath, Marks, dotted, read_yaml

LONGEST_SHOWN = 200  # characters of a value in a message
IN_YAML = {
    "tuple_type": "expected a list",
    "dict_type": "expected keys and values",
    "model_type": "expected keys and values",
}
"""What pydantic says in Python's words, by the type of the mistake."""
Section = TypeVar("Section", bound=BaseModel)


def load_settings(path: Path) -> Settings:
    """Settings from a YAML file.

    Raises:
        SettingsError: the file cannot be read, is not YAML, or does not describe valid settings.
    """
    return parse_settings(read_text(path), name=str(path))


def parse_settings(text: str, name: str = "settings") -> Settings:
    """Settings from YAML text; `name` stands for the file in messages. Raises SettingsError."""
    return parse_section(text, Settings, name)


def read_text(path: Path) -> str:
    """The text of a settings file. Raises SettingsError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read {path}: {error}") from None


def parse_section(
    text: str, section: type[Section], name: str, *, show_values: bool = True, context: Mapping[str, Any] | None = None
) -> Section:
    """A section from YAML text; an empty text gives its defaults.

    Args:
        name: stands for the file in messages.
        show_values: False keeps what the text holds out of messages, where it may be secret.
        context: what the section's validators need to know beside the text.

    Raises:
        SettingsError: one line for each mistake.
    """
    values, marks = read_yaml(text, name, show_values=show_values)
    if values is None:
        values = {}
    elif not isinstance(values, dict) and not issubclass(section, RootModel):
        raise SettingsError(f"{name}:1:1: expected keys and values, found {type(values).__name__}")
    try:
        return section.model_validate(values, context=context)
    except ValidationError as error:
        lines = [_describe(section, dict(detail), marks, name, show_values) for detail in error.errors()]
        raise SettingsError("\n".join(lines)) from None


def _describe(
    section: type[BaseModel],
    detail: Mapping[str, Any],
    marks: Marks,
    name: str,
    show_values: bool,
) -> str:
    path: KeyPath = tuple(detail["loc"])
    known = path
    while known and known not in marks:
        known = known[:-1]
    line, column = marks.get(known, (1, 1))
    where = f"{name}:{line}:{column}"
    if detail["type"] == "extra_forbidden":
        fields = _fields_at(section, path[:-1])
        if not show_values:
            return f"{where}: unknown key in {dotted(path[:-1]) or 'the file'}; known are: {', '.join(fields)}"
        close = difflib.get_close_matches(str(path[-1]), fields, n=1, cutoff=0.0)
        return f"{where}: unknown key {dotted(path)}; did you mean {close[0]}?" if close else f"{where}: unknown key"
    if detail["type"] == "missing":
        return f"{where}: {dotted(path)} is required"
    message = IN_YAML.get(detail["type"]) or str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "value_error" and not path:
        named = {dotted(key): place for key, place in marks.items()}.get(re.split(r"[:\s]", message)[0], (line, column))
        return f"{name}:{named[0]}:{named[1]}: {message}"
    show_values = show_values and detail["type"] != UNSHOWN
    of = f"{dotted(path)}: " if path else ""
    return f"{where}: {of}{message}" + (f", got {_shown(detail['input'])}" if show_values else "")


def _fields_at(section: type[BaseModel], path: KeyPath) -> list[str]:
    """Names of the keys that are valid below `path` in `section`."""
    annotation: Any = None
    for part in path:
        if annotation is None:
            annotation = section.model_fields[str(part)].annotation
        else:
            annotation = next(arg for arg in get_args(annotation) if isinstance(arg, type) and arg is not str)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            section, annotation = annotation, None
    return list(section.model_fields)


def _shown(value: Any) -> str:
    text = redacted(repr(value))
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
