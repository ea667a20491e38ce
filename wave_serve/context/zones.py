"""How far a context is trusted: trained, validated by measurement, or merely allowed."""

from dataclasses import dataclass
from enum import StrEnum

from wave_serve.headers import Header
from wave_serve.settings import ZoneAction, ZoneSettings


class Zone(StrEnum):
    """A stretch of context lengths; each begins where the one before it ends."""

    TRAINED = "trained"
    VALIDATED = "validated"
    HARD = "hard"


@dataclass(frozen=True)
class Zones:
    """The zones of one model; lengths in tokens of prompt + completion."""

    train_length: int
    validated_length: int
    actions: ZoneSettings

    def of(self, length: int) -> Zone:
        """The zone that a context of `length` tokens reaches into."""
        if length <= self.train_length:
            return Zone.TRAINED
        return Zone.VALIDATED if length <= self.validated_length else Zone.HARD

    def limit(self) -> int | None:
        """The longest context that no rejected zone forbids; None where none is rejected."""
        if self.actions.validated is ZoneAction.REJECT:
            return self.train_length
        return self.validated_length if self.actions.hard is ZoneAction.REJECT else None

    def headers(self, length: int) -> dict[str, str]:
        """The zone of a context of `length` tokens as response headers, with a warning where its action is to warn."""
        found: dict[str, str] = {Header.ZONE: self.of(length).value}
        warning = self.warning(length)
        return found if warning is None else found | {Header.WARNING: warning}

    def warning(self, length: int) -> str | None:
        """Why a context of `length` tokens deserves care; None where the action of its zone is not to warn."""
        zone = self.of(length)
        if getattr(self.actions, zone.value) is not ZoneAction.WARN:
            return None
        reach = f"the context may reach {length} tokens"
        match zone:
            case Zone.TRAINED:
                return f"{reach}; the model was trained at {self.train_length}"
            case Zone.VALIDATED:
                return f"{reach}, beyond the training length of {self.train_length}"
            case Zone.HARD:
                return f"{reach}, beyond the {self.validated_length} at which the model was shown to be good"


def zones_of(train_length: int | None, validated_length: int | None, actions: ZoneSettings) -> Zones | None:
    """The zones of a model; None where its training length is unknown. What nobody measured is not validated."""
    if train_length is None:
        return None
    return Zones(train_length, max(train_length, validated_length or train_length), actions)
