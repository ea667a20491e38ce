"""Refuses JSON schemas that no value can satisfy because a reference leads back to itself.

vLLM takes such a schema, finds that no token may follow and answers 500, which clients try again. A tree is different:
between a node and its children stands a property or an item, so `{"properties": {"child": {"$ref": "#"}}}` passes.
"""

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from wave_serve.errors import invalid
from wave_serve.request.schema_places import schemas_in

MOST_STEPS = 50_000  # parts and steps of references looked at in one request; at most about 0.2 s
# Keywords whose subschemas describe a part of the value: a reference below one of them makes a tree, not a cycle.
BY_NAME = ("properties", "patternProperties")
BY_PLACE = (
    *("items", "prefixItems", "additionalItems", "unevaluatedItems", "contains"),
    *("additionalProperties", "unevaluatedProperties", "propertyNames"),
)


def check_schemas(payload: Mapping[str, Any]) -> None:
    """Every schema in a request's body leaves a value to write. Raises ApiError 400 naming the field and the place."""
    left = MOST_STEPS
    for where, schema in schemas_in(payload):
        param = where.split(".")[0].split("[")[0]
        try:
            walk = _Walk(schema, left)
        except _TooLargeError:
            raise invalid(f"{where} is too large: {MOST_STEPS} parts of schemas are read in a request", param) from None
        left = walk.left
        place = walk.unwritable()
        if place is not None:
            message = f"{where} refers to itself in a cycle at {place}: no value could be written for it"
            raise invalid(message, param)


class _TooLargeError(Exception):
    """A schema has more parts than may be looked at."""


@dataclass(eq=False)
class _Choice:
    """A schema needs one of several others to be writable; a plain reference is a choice of one."""

    owner: int
    met: bool = False


@dataclass
class _Walk:
    """The parts of one schema that a value may come to, each known by the `id` of its dictionary.

    Attributes:
        root: the schema.
        left: steps that may still be taken.
        places: the first JSON pointer to each part, those near the root first.
        values: parts that describe a value of their own, as opposed to more about a value that another part describes.
        choices: by part, the choices that it is in.
        unmet: by part, how many choices it still needs.
    """

    root: Mapping[str, Any]
    left: int
    places: dict[int, str] = field(default_factory=dict)
    values: set[int] = field(default_factory=set)
    choices: dict[int, list[_Choice]] = field(default_factory=lambda: defaultdict(list))
    unmet: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Finds the parts, breadth first and without recursion: a chain of references may be thousands long.

        Raises:
            _TooLargeError: it would take too many steps.
        """
        self._pending: deque[Mapping[str, Any]] = deque()
        self._meet(self.root, "#", value=True)
        while self._pending:
            part = self._pending.popleft()
            place = self.places[id(part)]
            for options in self._conditions(part, place):
                self._need(part, options)
            for keyword, inner in _parts_of_value(part):
                self._meet(inner, f"{place}/{keyword}", value=True)

    def unwritable(self) -> str | None:
        """The place of the first value that no value can be written for; None where there is none."""
        pending = [part for part, unmet in self.unmet.items() if unmet == 0]
        while pending:
            for choice in self.choices.get(pending.pop(), ()):
                if not choice.met:
                    choice.met = True
                    self.unmet[choice.owner] -= 1
                    if self.unmet[choice.owner] == 0:
                        pending.append(choice.owner)
        return next((place for part, place in self.places.items() if part in self.values and self.unmet[part]), None)

    def _spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise _TooLargeError

    def _meet(self, part: Mapping[str, Any], place: str, *, value: bool = False) -> None:
        self._spend(1)
        if value:
            self.values.add(id(part))
        if id(part) not in self.places:
            self.places[id(part)] = place
            self.unmet[id(part)] = 0
            self._pending.append(part)

    def _need(self, part: Mapping[str, Any], options: list[tuple[str, Mapping[str, Any]]]) -> None:
        choice = _Choice(id(part))
        self.unmet[id(part)] += 1
        for place, option in options:
            self._meet(option, place)
            self.choices[id(option)].append(choice)

    def _conditions(self, part: Mapping[str, Any], place: str) -> Iterator[list[tuple[str, Mapping[str, Any]]]]:
        """The choices about the same value that a part leaves, with the place of each option.

        One with an option that is no object is left out, for `true` can be written, and what is no schema at all is
        the engine's to refuse; so are references that lead nowhere, or out of the schema.
        """
        target = self._target(part.get("$ref"))
        if target is not None:
            yield [(str(part["$ref"]), target)]
        for index, one in enumerate(_list(part, "allOf")):
            if isinstance(one, dict):
                yield [(f"{place}/allOf/{index}", one)]
        for keyword in ("anyOf", "oneOf"):
            options = _list(part, keyword)
            if options and all(isinstance(one, dict) for one in options):
                yield [(f"{place}/{keyword}/{index}", one) for index, one in enumerate(options)]

    def _target(self, reference: Any) -> Mapping[str, Any] | None:
        """The part that a `$ref` names; None where it is no pointer into this schema."""
        if not isinstance(reference, str):
            return None
        base, hash_sign, pointer = reference.partition("#")
        anchor, *steps = pointer.split("/")
        if not hash_sign or anchor or base not in ("", self.root.get("$id")):
            return None
        self._spend(len(steps))
        found: Any = self.root
        for step in steps:
            name = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(found, dict):
                found = found.get(name)
            elif isinstance(found, list) and len(name) < 9 and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            else:
                return None
        return found if isinstance(found, dict) else None


def _parts_of_value(part: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The subschemas for properties and items, each with its pointer below `part`."""
    for keyword in BY_NAME:
        named = part.get(keyword)
        for name, one in named.items() if isinstance(named, dict) else ():
            if isinstance(one, dict):
                yield f"{keyword}/{name.replace('~', '~0').replace('/', '~1')}", one
    for keyword in BY_PLACE:
        inner = part.get(keyword)
        if isinstance(inner, dict):
            yield keyword, inner
        for index, one in enumerate(inner if isinstance(inner, list) else ()):
            if isinstance(one, dict):
                yield f"{keyword}/{index}", one


def _list(part: Mapping[str, Any], keyword: str) -> list[Any]:
    found = part.get(keyword)
    return found if isinstance(found, list) else []
