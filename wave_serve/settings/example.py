"""Renders the settings model as annotated YAML: every field with its description and default."""

import textwrap
from enum import StrEnum
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from wave_serve.settings import Settings

WIDTH = 120
HEAD = """\
# wave-serve gateway --config gateway.yaml
# Every key with its default; a key that has none is commented out. Only upstreams and the models that they serve are
# needed. Lengths are in tokens, times in seconds.
"""


def render_example() -> str:
    """The settings of a gateway before one upstream, as YAML that can be used as it is."""
    return HEAD + "".join(_section(Settings, ""))


def _section(section: type[BaseModel], indent: str) -> list[str]:
    """The lines of all fields of a section, those of the whole file set apart from each other."""
    lines = []
    for name, field in section.model_fields.items():
        lines += [] if indent else ["\n"]
        lines += _field(name, field, indent)
    return lines


def _field(name: str, field: FieldInfo, indent: str) -> list[str]:
    section = _section_in(field.annotation)
    lines = _comment(field, section, indent)
    if section is None:
        value = field.examples[0] if field.examples else field.get_default(call_default_factory=True)
        return [*lines, f"{indent}{'# ' if value is None else ''}{name}: {_flow(value)}\n"]
    lines.append(f"{indent}{name}:\n")
    kind = get_origin(field.annotation)
    if kind is dict:
        key = str(field.examples[0]) if field.examples else name
        return [*lines, f"{indent}  {key}:\n", *_section(section, indent + "    ")]
    if kind is tuple:
        entry = _section(section, indent + "    ")
        first = next(index for index, line in enumerate(entry) if not line.lstrip().startswith("#"))
        entry[first] = f"{indent}  - {entry[first].lstrip()}"
        return lines + entry
    return lines + _section(section, indent + "  ")


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a field is, or holds as entries of a list or values of a mapping."""
    parts = (annotation, *get_args(annotation))
    return next((part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)), None)


def _comment(field: FieldInfo, section: type[BaseModel] | None, indent: str) -> list[str]:
    """A field's description, or its section's, and the values of an enumeration that it does not name itself."""
    text = field.description or (section.__doc__ if section else None) or ""
    kind = field.annotation
    if isinstance(kind, type) and issubclass(kind, StrEnum) and not all(choice in text for choice in kind):
        text += f" One of: {', '.join(kind)}."
    return [f"{indent}# {line}\n" for line in textwrap.wrap(" ".join(text.split()), WIDTH - len(indent) - 2)]


def _flow(value: Any) -> str:
    """A value on one line of YAML."""
    text: str = yaml.safe_dump(to_jsonable_python(value), default_flow_style=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")
