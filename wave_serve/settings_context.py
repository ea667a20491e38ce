"""Options of a model's context: what happens past its cap, and how far its context is trusted."""

from enum import StrEnum

from pydantic import Field, field_validator

from wave_serve.settings_section import Frozen


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
