"""Reads YAML into plain values, and where each of them stands; what YAML allows and no settings need is refused."""

import re
from collections.abc import Iterator
from typing import Any

import yaml
from yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode, SequenceNode

from wave_serve.settings.errors import SettingsError

KeyPath = tuple[str | int, ...]
Marks = dict[KeyPath, tuple[int, int]]
"""Line and column, from 1, by the keys that lead there."""

MERGE = "tag:yaml.org,2002:merge"  # of the key <<, which is no value
DEEPEST = 30  # levels; the settings have six
MOST_ENTRIES = 100_000  # an alias of an alias of an alias can stand for any number
WRONG_SCALAR = (ValueError, TypeError, KeyError, IndexError, AttributeError)
"""What PyYAML raises of a scalar that is not what its form or its tag says, such as a 13th month."""


def read_yaml(text: str, name: str, *, show_values: bool) -> tuple[Any, Marks]:
    """The value of a YAML text, None where it is empty, and the places of its keys and list entries.

    Args:
        name: stands for the file in messages.
        show_values: False keeps what the text holds out of messages.

    Raises:
        SettingsError: not YAML, nested too deep, a key twice, or a value that contains itself.
    """
    try:
        _check_depth(text, name)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            return None, {}
        marks: Marks = {}
        for path, node in _entries(root, name):
            if path in marks:
                raise SettingsError(f"{_where(name, node)}: {dotted(path)} is given twice")
            marks[path] = _place(node)
            if len(marks) > MOST_ENTRIES:
                raise SettingsError(f"{_where(name, node)}: more than {MOST_ENTRIES} entries, aliases counted in full")
        _check_scalars(root, name, show_values=show_values)
        return yaml.safe_load(text), marks
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        problem = str(error.problem) if show_values else re.sub(r"'[^']*'", "'...'", str(error.problem))
        raise SettingsError(f"{where}: not valid YAML: {problem}") from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
        raise SettingsError(f"{name}:{line}:{column}: not valid YAML: {error.reason}") from None


def dotted(path: KeyPath) -> str:
    """The path as people write it: upstreams.0.base_url."""
    return ".".join(str(part) for part in path)


def _check_depth(text: str, name: str) -> None:
    """Whoever reads the text afterwards calls himself for each level."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise SettingsError(f"{_where(name, event)}: nested too deep, over {DEEPEST} levels")


def _entries(node: Node, name: str, path: KeyPath = (), above: tuple[Node, ...] = ()) -> Iterator[tuple[KeyPath, Node]]:
    """Every key and list entry below `node`: its path, and the node that stands at its place."""
    if isinstance(node, CollectionNode) and node in above:
        raise SettingsError(f"{_where(name, node)}: {dotted(path)} contains itself")
    above = (*above, node)
    if isinstance(node, MappingNode):
        for key, value in node.value:
            child = (*path, key.value if isinstance(key, ScalarNode) else "?")
            yield child, key
            yield from _entries(value, name, child, above)
    elif isinstance(node, SequenceNode):
        for index, value in enumerate(node.value):
            yield (*path, index), value
            yield from _entries(value, name, (*path, index), above)


def _check_scalars(root: Node, name: str, *, show_values: bool) -> None:
    """Raises SettingsError at the scalar that has no value."""
    seen: set[int] = set()
    pending = [root]
    while pending:
        node = pending.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, MappingNode):
            pending += [part for pair in node.value for part in pair]
        elif isinstance(node, SequenceNode):
            pending += node.value
        elif node.tag != MERGE:
            _check_scalar(node, name, show_values=show_values)


def _check_scalar(node: Node, name: str, *, show_values: bool) -> None:
    try:
        yaml.SafeLoader("").construct_object(node)
    except WRONG_SCALAR:
        shown = f" {node.value!r}" if show_values else ""
        kind = node.tag.rpartition(":")[2]
        raise SettingsError(f"{_where(name, node)}: not valid YAML: a {kind} that is none{shown}; quote it") from None


def _where(name: str, at: Any) -> str:
    line, column = _place(at)
    return f"{name}:{line}:{column}"


def _place(at: Any) -> tuple[int, int]:
    return at.start_mark.line + 1, at.start_mark.column + 1
