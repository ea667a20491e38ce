"""Options of the choice among several upstreams."""

from pydantic import Field, PositiveFloat, PositiveInt

from wave_serve.settings_section import Frozen


class RoutingSettings(Frozen):
    """How a request finds its upstream, and what happens when that fails."""

    tries: PositiveInt = Field(
        2, description="Upstreams that a request is sent to at most, each after the last failed."
    )
    retry_deadline: PositiveFloat = Field(
        30.0, description="Seconds after a request was first sent from which on it is not sent to another upstream."
    )
    eject_after: PositiveInt = Field(3, description="Failures in a row after which an upstream is avoided.")
    eject_first: PositiveFloat = Field(5.0, description="Seconds that it is avoided; doubles while it keeps failing.")
    eject_most: PositiveFloat = Field(300.0, description="Longest time that it is avoided, seconds.")
    max_share: float = Field(
        1.5, ge=1, description="An upstream over this multiple of its share of the tokens gets no more by affinity."
    )
    long_match: float = Field(
        0.5, gt=0, le=1, description="Fraction of a prompt known to an upstream from which on it may exceed its share."
    )
    prefixes: PositiveInt = Field(2**16, description="Prompt prefixes remembered, over all models and upstreams.")
