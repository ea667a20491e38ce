"""What /v1/models answers of a served model."""

from typing import Literal

from pydantic import ConfigDict, NonNegativeInt, with_config
from typing_extensions import TypedDict

from wave_serve.settings import Overflow, ZoneAction


@with_config(ConfigDict(use_attribute_docstrings=True))
class Limits(TypedDict, total=False):
    """Every known bound on prompt + completion, in tokens."""

    max_tokens: NonNegativeInt
    """Configured cap."""
    max_extrapolation: NonNegativeInt
    """Configured multiple of train_length."""
    zones: NonNegativeInt
    """Where a rejected zone begins."""
    engine: NonNegativeInt
    """The engine's max_model_len; of several engines that with the widest window."""
    kv_cache: NonNegativeInt
    """What that engine's KV cache holds of one request."""
    key: NonNegativeInt
    """The API key's own cap."""


class Zones(TypedDict):
    """What happens by how far a context reaches."""

    trained: ZoneAction
    validated: ZoneAction
    hard: ZoneAction


@with_config(ConfigDict(use_attribute_docstrings=True))
class Model(TypedDict):
    """A served model with its limits."""

    id: str
    object: Literal["model"]
    created: NonNegativeInt
    """When this gateway started, in seconds since 1970."""
    owned_by: str
    root: str
    """Where the engine has the model from, as it tells; else the model's name."""
    parent: str | None
    """The model that an adapter belongs to, as the engine tells."""
    max_model_len: NonNegativeInt | None
    """Effective cap on prompt + completion, tokens: the least limit."""
    limits: Limits
    train_length: NonNegativeInt | None
    """Length that the model was trained at, tokens."""
    validated_length: NonNegativeInt | None
    """Length up to which it was shown to be good, tokens."""
    max_extrapolation: float | None
    """Configured cap as a multiple of train_length."""
    zones: Zones | None
    """What happens by how far a context reaches."""
    overflow: Overflow
    """What happens to a prompt over the cap, unless its request says it."""
    default_max_completion_tokens: NonNegativeInt
    """Completion limit of requests that name none."""


class Models(TypedDict):
    """The served models."""

    object: Literal["list"]
    data: list[Model]
