"""The base of every section of the settings, and the kinds of value that several sections hold."""

import re
from functools import partial
from typing import Any

from pydantic import AfterValidator, BaseModel, ConfigDict, HttpUrl, ValidationError, field_validator

from wave_serve.settings.secret import unshown

MOST = 1e9  # of fractions, factors and seconds
LARGEST = 2**53  # of counts and lengths: the last up to which every integer is a float


class Frozen(BaseModel):
    """Immutable section of the settings; an unknown key is an error, and so is a number that no product can hold."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _is_finite_in_every_product(cls, value: Any) -> Any:
        """A length times a factor has to stay a number, and a wait has to end: 10^9 s are 32 years."""
        if isinstance(value, float) and value > MOST:
            raise ValueError(f"must be at most {MOST:g}")
        if isinstance(value, int) and value > LARGEST:
            raise ValueError(f"must be at most {LARGEST}")
        return value


def root_url(instead: str) -> AfterValidator:
    """Takes the root of a server, without a slash or the clients' /v1 at its end; for credentials there is `instead`.

    The roots of upstreams are public: `/ready` and `/metrics` show them without a key, and so do logs.
    """
    return AfterValidator(partial(_root_url, instead=instead))


def redacted(text: str) -> str:
    """The text without what stands before an @ in a URL, which may be a password."""
    return re.sub(r"//[^\s'\"]*@", "//...@", text)


def _root_url(url: str, instead: str) -> str:
    if "@" in url:
        raise unshown(f"credentials in a URL would be public; {instead}")
    if "?" in url or "#" in url:
        raise unshown(f"the root of a server has no query and no fragment; for credentials, {instead}")
    if "://" not in url:
        raise ValueError(f"the URL has no scheme; http://{url.lstrip('/')} has one")
    try:
        parsed = HttpUrl(url)
    except ValidationError as error:
        raise ValueError(error.errors()[0]["msg"]) from None
    root = str(parsed).rstrip("/")
    return root.removesuffix("/v1").rstrip("/") if f"{parsed.path}".rstrip("/").endswith("/v1") else root
