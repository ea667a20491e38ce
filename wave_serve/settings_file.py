"""Reads the YAML settings file; a mistake is named with its key, line and column, and the closest valid key."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from wave_serve.settings import Settings

KeyPath = tuple[str | int, ...]


class SettingsError(ValueError):
    """The settings file cannot be used; the message names file, position and reason, one mistake a line."""


def load_settings(path: Path) -> Settings:
    """Settings from a YAML file.

    Raises:
        SettingsError: the file cannot be read, is not YAML, or does not describe valid settings.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read {path}: {error}") from None
    return parse_settings(text, name=str(path))


def parse_settings(text: str, name: str = "settings") -> Settings:
    """Settings from YAML text; `name` stands for the file in messages. Raises SettingsError."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise SettingsError(f"{where}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{name}: not valid YAML: {error}") from None
    if root is None:
        return Settings()
    if not isinstance(values, dict):
        raise SettingsError(f"{name}:1:1: expected keys and values, found {type(values).__name__}")
    marks: dict[KeyPath, tuple[int, int]] = {}
    _collect_marks(root, (), marks, name)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        lines = [_describe(dict(detail), marks, name) for detail in error.errors()]
        raise SettingsError("\n".join(lines)) from None


def _collect_marks(node: Node, path: KeyPath, marks: dict[KeyPath, tuple[int, int]], name: str) -> None:
    """Line and column (from 1) of every key and list entry below `node`."""
    if isinstance(node, MappingNode):
        for key, value in node.value:
            place = (key.start_mark.line + 1, key.start_mark.column + 1)
            child = (*path, key.value if isinstance(key, ScalarNode) else str(key.value))
            if child in marks:
                raise SettingsError(f"{name}:{place[0]}:{place[1]}: {_dotted(child)} is given twice")
            marks[child] = place
            _collect_marks(value, child, marks, name)
    elif isinstance(node, SequenceNode):
        for index, value in enumerate(node.value):
            marks[*path, index] = (value.start_mark.line + 1, value.start_mark.column + 1)
            _collect_marks(value, (*path, index), marks, name)


def _describe(detail: Mapping[str, Any], marks: dict[KeyPath, tuple[int, int]], name: str) -> str:
    path: KeyPath = tuple(detail["loc"])
    known = path
    while known and known not in marks:
        known = known[:-1]
    line, column = marks.get(known, (1, 1))
    where = f"{name}:{line}:{column}"
    if detail["type"] == "extra_forbidden":
        fields = _fields_at(path[:-1])
        close = difflib.get_close_matches(str(path[-1]), fields, n=1, cutoff=0.0)
        return f"{where}: unknown key {_dotted(path)}; did you mean {close[0]}?" if close else f"{where}: unknown key"
    if detail["type"] == "missing":
        return f"{where}: {_dotted(path)} is required"
    message = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "value_error" and not path:
        return f"{where}: {message}"
    return f"{where}: {_dotted(path)}: {message}, got {detail['input']!r}"


def _fields_at(path: KeyPath) -> list[str]:
    """Names of the keys that are valid below `path`."""
    section: type[BaseModel] = Settings
    annotation: Any = None
    for part in path:
        if annotation is None:
            annotation = section.model_fields[str(part)].annotation
        else:
            annotation = next(arg for arg in get_args(annotation) if isinstance(arg, type) and arg is not str)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            section, annotation = annotation, None
    return list(section.model_fields)


def _dotted(path: KeyPath) -> str:
    return ".".join(str(part) for part in path)
