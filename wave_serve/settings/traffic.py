"""Options of the traffic to the upstreams: how one is chosen, how much it gets, and for how long."""

from enum import StrEnum

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from wave_serve.settings.section import Frozen


class TimeoutSettings(Frozen):
    """Deadlines, in seconds."""

    body: PositiveFloat = Field(
        60.0, description="For a request's head, and its whole body, to arrive; a late body is a 408."
    )
    idle: PositiveFloat = Field(
        120.0,
        description="For a client's connection to stay open without a request; above what a proxy in front keeps it. "
        "A client that takes nothing of its answer for as long is cut off.",
    )
    connect: PositiveFloat = Field(5.0, description="TCP connection to an upstream.")
    silence: PositiveFloat = Field(600.0, description="Longest gap without a byte from an upstream.")
    generation: PositiveFloat = Field(3600.0, description="Longest that one generation may take, queue included.")
    keep_alive: PositiveFloat = Field(10.0, description="Idle time in a stream after which a comment is sent.")
    poll: PositiveFloat = Field(1.0, description="Between two looks at an upstream's health, and at the files.")
    poll_answer: PositiveFloat = Field(10.0, description="For an upstream to answer a look at its health.")
    retry_after: PositiveInt = Field(5, description="What a client is told to wait while an upstream is down.")
    drain: PositiveFloat = Field(3.0, description="For running requests to finish after SIGTERM.")
    stop: PositiveFloat = Field(3.0, description="For the engine to end after SIGTERM, before SIGKILL.")


class NewDocuments(StrEnum):
    """Where a long prompt goes whose beginning this gateway has not sent anywhere."""

    LEAST_LOADED = "least_loaded"
    HASHED = "hashed"


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
    new_documents: NewDocuments = Field(
        NewDocuments.LEAST_LOADED,
        description="Where a long prompt goes that begins as none before: to the least_loaded upstream, or (hashed) to "
        "the one that every gateway would choose for it; that is for several gateways.",
    )
    prefixes: PositiveInt = Field(2**16, description="Prompt prefixes remembered, over all models and upstreams.")


class AdmissionSettings(Frozen):
    """Bounds on the work under way, and on what waits for it."""

    max_requests: PositiveInt = Field(256, description="Generations at the same time, of each upstream.")
    max_prompt_tokens: PositiveInt = Field(
        2**20,
        description="Prompt tokens under way, of each upstream; a longer prompt is let through when it is alone.",
    )
    queue_requests: NonNegativeInt = Field(256, description="Generations that wait; past it the answer is 429.")
    queue_prompt_tokens: PositiveInt = Field(2**22, description="Prompt tokens that wait; past it the answer is 429.")
    queue_deadline: PositiveFloat = Field(30.0, description="Seconds that a generation waits before the answer is 429.")
