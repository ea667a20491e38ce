"""The base of every section of the settings, and the kinds of value that several sections hold."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, HttpUrl


def _without_trailing_slash(url: str) -> str:
    return str(HttpUrl(url)).rstrip("/")


BaseUrl = Annotated[str, AfterValidator(_without_trailing_slash)]


class Frozen(BaseModel):
    """Immutable section of the settings; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
