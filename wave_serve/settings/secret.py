"""Settings whose values are secret: the file says where they stand, and never holds them."""

import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, StringConstraints
from pydantic_core import PydanticCustomError

ENVIRONMENT, FILE = "env:", "file:"
UNSHOWN = "unshown"
"""The type of a mistake in a value that may be secret, which no message may show."""

HEADER_VALUE = re.compile(r"[\x21-\x7e\x80-\xff]+([ \t]+[\x21-\x7e\x80-\xff]+)*")
WITH_CREDENTIALS = re.compile(r"authorization|cookie|.*(api-?key|token|secret|password).*", re.IGNORECASE)


def unshown(message: str) -> PydanticCustomError:
    """A mistake in a value that may be secret."""
    return PydanticCustomError(UNSHOWN, "{reason}", {"reason": message})


def _source(value: Any) -> Any:
    named = isinstance(value, str) and any(value.startswith(one) and value != one for one in (ENVIRONMENT, FILE))
    if not named:
        raise unshown("a secret does not stand here itself: give env:NAME (a variable) or file:PATH")
    return value


def _text(value: Any) -> Any:
    if not isinstance(value, str):
        raise unshown(f"must be a text, got one of another kind ({type(value).__name__}); put it into quotes")
    return value


Secret = Annotated[str, BeforeValidator(_source)]
"""`env:NAME`, the variable that holds the value, or `file:PATH`, the file that does."""

HeaderName = Annotated[str, StringConstraints(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$", to_lower=True)]
HeaderText = Annotated[str, BeforeValidator(_text)]
"""The same, or the value itself."""


def read_secret(source: str) -> str:
    """The value of `env:NAME` or `file:PATH`, without line ends around it; anything else stands for itself.

    Raises:
        ValueError: there is none, or it cannot be the value of an HTTP header; the message never holds it.
    """
    if source.startswith(ENVIRONMENT):
        name = source.removeprefix(ENVIRONMENT)
        where, value = f"the environment variable {name}", os.environ.get(name)
        if value is None:
            raise ValueError(f"{where} is not set")
    elif source.startswith(FILE):
        path = Path(source.removeprefix(FILE))
        where = f"the file {path}"
        try:
            value = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"{where} is not a text") from None
        except OSError as error:
            raise ValueError(f"cannot read {where}: {error.strerror}") from None
    else:
        where, value = "the value", source
    value = value.strip("\r\n")
    if not value.strip():
        raise ValueError(f"{where} is empty")
    if not HEADER_VALUE.fullmatch(value):
        raise ValueError(f"{where} holds characters that a header may not have, or blanks around it")
    return value
