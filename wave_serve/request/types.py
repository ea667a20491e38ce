"""Types of the fields of a request: what pydantic checks, and what an error message says that a value must be."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import dropwhile
from typing import Annotated, Any, Literal, NotRequired, TypeAlias

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    with_config,
)
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError, core_schema
from typing_extensions import TypedDict

from wave_serve.request.values import shown
from wave_serve.settings import Overflow
from wave_serve.worker.operations import whole

WRONG = {
    "bool_type": "must be true or false",
    "dict_type": "must be an object",
    "finite_number": "must be a number",
    "float_type": "must be a number",
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be at least {ge}",
    "int_type": "must be an integer",
    "less_than_equal": "must be at most {le}",
    "must": "must {be}",
    "string_pattern_mismatch": "must match {pattern}",
    "string_too_long": "must be a string of at most {max_length} characters",
    "string_too_short": "must be a string of at least {min_length} characters",
    "string_type": "must be a string",
}
"""What a message says for each of pydantic's types of errors, with the bounds that pydantic names."""


@dataclass(frozen=True)
class Must:
    """Annotates a type of several parts: its message says `must {be}`, and shows the part that is wrong."""

    be: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The type's own check with that message; pydantic calls this."""
        return core_schema.no_info_wrap_validator_function(self._check, handler(source))

    def _check(self, value: Any, check: ValidatorFunctionWrapHandler) -> Any:
        try:
            return check(value)
        except ValidationError as error:
            found = max(error.errors(include_url=False, include_context=False), key=lambda each: len(each["loc"]))
            place = list(dropwhile(lambda step: not isinstance(step, int), found["loc"]))
            part = f"{shown(found['input'])} at {'.'.join(map(str, place))}" if place else shown(value)
            raise self.error(part) from None

    def error(self, part: str) -> PydanticCustomError:
        """That a value is not so, because of `part`, such as `true at 1` in a list."""
        return PydanticCustomError("must", "must {be}", {"be": self.be, "part": part})


BY_TOKEN = Must("be an object from token ids to numbers")
TOKEN = re.compile("[0-9]+")


def _by_token(value: Any) -> Any:
    """Raises for the first key or number that is wrong: pydantic would take seconds to list a hundred thousand."""
    for token, number in value.items() if isinstance(value, dict) else ():
        if TOKEN.fullmatch(token) is None:
            raise BY_TOKEN.error(shown(token))
        if type(number) not in (int, float) or not -math.inf < number < math.inf:
            raise BY_TOKEN.error(f"{shown(token)}: {shown(number)}")
    return value


BY_NAME = Must("be an object from names to strings")


def _by_name(value: Any) -> Any:
    """Raises for the first value that is no string."""
    for name, text in value.items() if isinstance(value, dict) else ():
        if not isinstance(text, str):
            raise BY_NAME.error(f"{shown(name)}: {shown(text)}")
    return value


INT32, INT64 = 2**31 - 1, 2**63 - 1
WHOLE = BeforeValidator(whole)  # comes last: pydantic hides bounds that are added behind it from the document
FIRST = Field(fail_fast=True)  # one wrong item is enough to know of
Integer = Annotated[int, Field(ge=-INT64 - 1, le=INT64), WHOLE]
Natural = Annotated[int, Field(ge=0, le=INT64), WHOLE]
Positive = Annotated[int, Field(ge=1, le=INT64), WHOLE]
Positive32 = Annotated[int, Field(ge=1, le=INT32), WHOLE]
Natural32 = Annotated[int, Field(ge=0, le=INT32), WHOLE]
NaturalOrAll32 = Annotated[int, Field(ge=-1, le=INT32), WHOLE]
Number = Annotated[float, Field(allow_inf_nan=False)]
Object: TypeAlias = dict[str, Any]


# Which schemas it takes is the engine's to judge.
PARAMETERS = WithJsonSchema({"anyOf": [{"type": "object", "additionalProperties": True}, {"type": "null"}]})


@with_config(ConfigDict(strict=True, extra="allow"))
class Function(TypedDict):
    """A function that a model may call; vLLM answers 500 to some without these members."""

    name: str
    description: NotRequired[str | None]
    parameters: NotRequired[Annotated[Any, PARAMETERS]]


@with_config(ConfigDict(strict=True, extra="allow"))
class Tool(TypedDict):
    """A tool of a chat, which is a function."""

    type: NotRequired[Literal["function"]]
    function: Function


FUNCTIONS = Must("be a list of functions, each with a name")
Tools = Annotated[list[Tool], FIRST, FUNCTIONS]
SomeTools = Annotated[list[Tool], FIRST, Field(min_length=1), FUNCTIONS]
Objects = Annotated[list[Object], FIRST, Must("be a list of objects")]
Strings = Annotated[list[str], FIRST, Must("be a list of strings")]
SomeText = Annotated[str, Field(min_length=1)]
Texts = Annotated[list[SomeText], FIRST, Must("be a list of strings, none of them empty")]
TextOrTexts = Annotated[
    SomeText | Annotated[list[SomeText], FIRST], Must("be a string or a list of strings, none of them empty")
]
Choices = Annotated[
    list[SomeText], FIRST, Field(min_length=1), Must("be a list of one or more strings, none of them empty")
]


@with_config(ConfigDict(strict=True, extra="allow"))
class StructuredOutputs(TypedDict, total=False):
    """vLLM's form of response_format; it answers 500 to some choices of an empty text."""

    choice: Choices | None


StringsByName = Annotated[
    Object,
    BY_NAME,
    BeforeValidator(_by_name),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": "string"}}),
]
StringOrObject = Annotated[str | Object, Must("be a string or an object")]
TokenIds = Annotated[list[Annotated[int, Field(ge=0, le=INT64)]], FIRST, WHOLE, Must("be a list of token ids")]
VocabularyIds = Annotated[list[Annotated[int, Field(ge=0, le=2**32 - 1)]], FIRST, WHOLE, Must("be a list of token ids")]
Salt = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^@/\\\x00]+$")]
OverflowPolicy = Annotated[Overflow, Field(strict=False), Must(f"be one of {', '.join(Overflow)}")]
NumbersByToken = Annotated[
    Object,
    BY_TOKEN,
    BeforeValidator(_by_token),
    WithJsonSchema(
        {"type": "object", "propertyNames": {"pattern": "^[0-9]+$"}, "additionalProperties": {"type": "number"}}
    ),
]


def complaint(error: ErrorDetails, payload: Mapping[str, Any]) -> str:
    """The message for an error of a field of `payload`; it names the field, or its member, and the value."""
    name, *member = map(str, error["loc"])
    if payload.get(name) is None:
        return f"{name} is required"
    context = error.get("ctx", {})
    within = f"has a member {member[0]} that " if member else ""
    got = context.get("part") or shown(error["input"] if member else payload[name])
    return f"{name} {within}{WRONG[error['type']].format(**context)}, got {got}"
