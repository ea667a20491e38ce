"""Options of the choice among several upstreams."""

from pydantic import Field, PositiveFloat, PositiveInt

from wave_serve.settings_section import Frozen


class RoutingSettings(Frozen):
    """How a request finds its upstream, and what happens when that fails."""

    tries: PositiveInt = Field(
        2, description="Upstreams that a request is sent to at most, each after the last failed."
    )
    retry_deadline: PositiveFloat = Field(
        30.0, description="Seconds after a request was admitted from which on it is not sent to another upstream."
    )
