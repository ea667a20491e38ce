"""The base of every section of the settings."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Immutable section of the settings; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
