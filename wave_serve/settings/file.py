"""Reads YAML files of settings; a mistake is named with its key, line and column, and the closest valid key."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from wave_serve.errors import ExplainedError
from wave_serve.settings import Settings
from wave_serve.settings.secret import UNSHOWN
from wave_serve.settings.section import redacted

KeyPath = tuple[str | int, ...]
Section = TypeVar("Section", bound=BaseModel)


class SettingsError(ExplainedError, ValueError):
    """The settings file cannot be used; the message names file, position and reason, one mistake a line."""


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
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        problem = str(error.problem) if show_values else re.sub(r"'[^']*'", "'...'", str(error.problem))
        raise SettingsError(f"{where}: not valid YAML: {problem}") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{name}: not valid YAML" + (f": {error}" if show_values else "")) from None
    if root is None:
        values = {}
    elif not isinstance(values, dict):
        raise SettingsError(f"{name}:1:1: expected keys and values, found {type(values).__name__}")
    marks: dict[KeyPath, tuple[int, int]] = {}
    if root is not None:
        _collect_marks(root, (), marks, name)
    try:
        return section.model_validate(values, context=context)
    except ValidationError as error:
        lines = [_describe(section, dict(detail), marks, name, show_values) for detail in error.errors()]
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


def _describe(
    section: type[BaseModel],
    detail: Mapping[str, Any],
    marks: dict[KeyPath, tuple[int, int]],
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
            return f"{where}: unknown key in {_dotted(path[:-1]) or 'the file'}; known are: {', '.join(fields)}"
        close = difflib.get_close_matches(str(path[-1]), fields, n=1, cutoff=0.0)
        return f"{where}: unknown key {_dotted(path)}; did you mean {close[0]}?" if close else f"{where}: unknown key"
    if detail["type"] == "missing":
        return f"{where}: {_dotted(path)} is required"
    message = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "value_error" and not path:
        named = {_dotted(key): place for key, place in marks.items()}.get(
            re.split(r"[:\s]", message)[0], (line, column)
        )
        return f"{name}:{named[0]}:{named[1]}: {message}"
    show_values = show_values and detail["type"] != UNSHOWN
    return f"{where}: {_dotted(path)}: {message}" + (f", got {redacted(repr(detail['input']))}" if show_values else "")


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


def _dotted(path: KeyPath) -> str:
    return ".".join(str(part) for part in path)
