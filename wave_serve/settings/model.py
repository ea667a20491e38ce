"""Policy for one model: its cap, what happens past it, and how far its context is trusted."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from wave_serve.settings.section import Frozen


class Overflow(StrEnum):
    """What happens to a prompt over its cap; each truncation names the part that is cut away."""

    REJECT = "reject"
    TRUNCATE_HEAD = "truncate_head"
    TRUNCATE_MIDDLE = "truncate_middle"
    TRUNCATE_TAIL = "truncate_tail"


class ZoneAction(StrEnum):
    """What happens to a request whose context reaches into a zone."""

    ALLOW = "allow"
    WARN = "warn"
    REJECT = "reject"


class ZoneSettings(Frozen):
    """What happens by how far prompt + completion reach: `allow`, `warn` in a header, or `reject`."""

    trained: ZoneAction = Field(ZoneAction.ALLOW, description="Up to train_length: allow or warn; reject is refused.")
    validated: ZoneAction = Field(
        ZoneAction.ALLOW, description="Beyond it, up to validated_length: allow, warn or reject."
    )
    hard: ZoneAction = Field(
        ZoneAction.WARN, description="Beyond that, up to the cap: allow, warn or reject. Reject lowers the cap."
    )

    @field_validator("trained")
    @classmethod
    def _something_is_served(cls, action: ZoneAction) -> ZoneAction:
        if action is ZoneAction.REJECT:
            raise ValueError("reject would refuse every request; use max_tokens for a cap below train_length")
        return action


class ModelSettings(Frozen):
    """Policy for one model; all lengths are in tokens."""

    train_length: PositiveInt | None = Field(None, description="Length the checkpoint was trained at.", examples=[512])
    tokenizer: Path | None = Field(
        None, description="The checkpoint's tokenizer.json; without it prompts are counted by the upstream."
    )
    vocab_size: PositiveInt | None = Field(
        None, description="Token ids below this are valid; else the upstream judges."
    )
    max_tokens: PositiveInt | None = Field(None, description="Hard cap on prompt + completion.")
    max_extrapolation: PositiveFloat | None = Field(
        80.0, description="Cap as a multiple of train_length; without a default where max_tokens is given."
    )
    overflow: Overflow = Field(
        Overflow.REJECT,
        description="What to do with a prompt over the cap, unless the request says it: reject, or cut away its head, "
        "middle or tail (truncate_head, truncate_middle, truncate_tail).",
    )
    truncate_up_to: Annotated[float, Field(ge=1)] = Field(
        8.0, description="Longest prompt that is truncated, as a multiple of the cap; longer ones are refused."
    )
    default_max_completion_tokens: PositiveInt = Field(
        256, description="Completion length where the request names none and the cap leaves room."
    )
    clamp_max_tokens: bool = Field(False, description="Lower a too large max_tokens instead of refusing it.")
    max_sequences: PositiveInt = Field(128, description="Most completions of one request: prompts times n.")
    validated_length: PositiveInt | None = Field(
        None,
        description="Longest context that was measured to be good; `serve` reads it from the checkpoint's eval.json.",
    )
    validated_tolerance: Annotated[float, Field(ge=0)] = Field(
        0.02,
        description="Most that the loss per token may rise above its best at shorter lengths for a length of eval.json "
        "to count as good, as a fraction.",
    )
    zones: ZoneSettings = Field(
        ZoneSettings(), description="What happens by how far prompt + completion reach; needs train_length."
    )

    @model_validator(mode="before")
    @classmethod
    def _explicit_cap_replaces_the_default(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("max_tokens") is not None:
            return {"max_extrapolation": None} | values
        return values
