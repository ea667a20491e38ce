"""The file of API keys: each key's SHA-256 and what it may do.

A plain SHA-256 is enough because a key is 256 random bits: nothing can be guessed that a slow or salted hash would
protect. That is why keys are made by `wave-serve keys new` and short ones from the environment are refused.
"""

import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, PositiveInt, StringConstraints, ValidationInfo, field_validator, model_validator

from wave_serve.settings import Frozen
from wave_serve.settings.errors import SettingsError
from wave_serve.settings.file import parse_section, read_text

ENVIRONMENT = "WAVE_SERVE_API_KEYS"
PREFIX = "sk-wave-"
KEY_BYTES = 32
SHORTEST = 32  # characters of a key from the environment
SHA256 = r"^[0-9a-f]{64}$"
NAME = r"^[\w.@-]{1,64}$"


class Allowance(Frozen):
    """What a key may do; whatever is left out is not limited."""

    models: tuple[str, ...] | None = Field(None, min_length=1, description="Models that the key may use.")
    max_context: PositiveInt | None = Field(
        None, description="Cap on prompt + completion tokens; lowers a model's own cap, never raises it."
    )
    requests_per_minute: PositiveInt | None = Field(None, description="Requests a minute.")
    tokens_per_minute: PositiveInt | None = Field(
        None, description="Prompt tokens plus the longest completion asked for, a minute."
    )
    concurrency: PositiveInt | None = Field(None, description="Requests at the same time.")

    @field_validator("models")
    @classmethod
    def _models_are_served(cls, models: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        served = (info.context or {}).get("served")
        for model in models or ():
            if served is not None and model not in served:
                raise ValueError(f"no such model is served; served are: {', '.join(served)}")
        return models


class ApiKey(Allowance):
    """One key; its fields override those of its tier."""

    name: Annotated[str, StringConstraints(pattern=NAME)] = Field(description="Shown in logs in the key's place.")
    sha256: Annotated[str, StringConstraints(pattern=SHA256)] = Field(
        description="Hexadecimal SHA-256 of the key.", repr=False
    )
    tier: str | None = Field(None, description="Tier whose limits apply where the key has none of its own.")


class KeysFile(Frozen):
    """All keys, and named sets of limits that several keys share."""

    tiers: dict[str, Allowance] = Field(default_factory=dict, description="Limits by the name of the tier.")
    keys: tuple[ApiKey, ...] = Field(description="The keys.")

    @model_validator(mode="after")
    def _names_and_tiers_agree(self) -> Self:
        if not self.keys:
            raise ValueError("keys: at least one key is needed; without a keys file the gateway is open")
        for field in ("name", "sha256"):
            seen: dict[str, int] = {}
            for index, key in enumerate(self.keys):
                first = seen.setdefault(getattr(key, field), index)
                if first != index:
                    raise ValueError(f"keys.{index}.{field} is the same as that of keys.{first}")
        for index, key in enumerate(self.keys):
            if key.tier is not None and key.tier not in self.tiers:
                known = ", ".join(self.tiers) or "none"
                raise ValueError(f"keys.{index}.tier: {key.tier!r} is not described under tiers; known: {known}")
        return self

    def resolved(self) -> tuple[ApiKey, ...]:
        """The keys with the limits of their tiers filled in."""
        return tuple(self._with_tier(key) for key in self.keys)

    def _with_tier(self, key: ApiKey) -> ApiKey:
        if key.tier is None:
            return key
        missing = {
            field: value for field, value in self.tiers[key.tier] if value is not None and getattr(key, field) is None
        }
        return key.model_copy(update=missing)


def load_keys(
    path: Path | None, served: Iterable[str], environment: Mapping[str, str] = os.environ
) -> tuple[ApiKey, ...]:
    """All keys of the file and of the environment; empty where there are none of both.

    A key may name only models that are `served`.

    Raises:
        SettingsError: file and line of each mistake; never with a value, which might be a key.
    """
    keys = _from_environment(environment)
    if path is not None:
        keys += parse_keys(read_text(path), served, str(path))
        names = [key.name for key in keys]
        for key in keys:
            if names.count(key.name) > 1:
                raise SettingsError(f"{path}: the name {key.name} belongs to a key from {ENVIRONMENT}")
    return keys


def parse_keys(text: str, served: Iterable[str], name: str = "keys") -> tuple[ApiKey, ...]:
    """The keys described in YAML text, tiers filled in. Raises SettingsError."""
    context = {"served": tuple(served)}
    return parse_section(text, KeysFile, name, show_values=False, context=context).resolved()


def new_key() -> str:
    """A fresh key of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(KEY_BYTES)


def digest(key: str) -> str:
    """Hexadecimal SHA-256 of a key, as the file holds it."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def entry_for(key: str, name: str, limits: Mapping[str, Any]) -> str:
    """The line of the keys file for a key. Raises pydantic's ValidationError."""
    given = {"name": name, "sha256": digest(key)} | {field: value for field, value in limits.items() if value}
    shown = ApiKey.model_validate(given).model_dump(include=set(given))
    return "  - {" + ", ".join(f"{field}: {json.dumps(shown[field])}" for field in given) + "}"


def _from_environment(environment: Mapping[str, str]) -> tuple[ApiKey, ...]:
    """Keys without limits, named env-1, env-2, ... by their place in the comma-separated list."""
    given = [key for key in re.split(r"[,\s]+", environment.get(ENVIRONMENT, "")) if key]
    for place, key in enumerate(given, start=1):
        if len(key) < SHORTEST:
            raise SettingsError(
                f"{ENVIRONMENT}: key {place} has {len(key)} characters, at least {SHORTEST} are needed; "
                "`wave-serve keys new` makes one"
            )
    return tuple(ApiKey(name=f"env-{place}", sha256=digest(key)) for place, key in enumerate(given, start=1))
