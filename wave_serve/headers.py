"""The headers of the gateway's answers, each with what the OpenAPI document says of it."""

from enum import StrEnum


class Header(StrEnum):
    """The name of a header.

    Attributes:
        kind: JSON type of its value.
        description: what it tells.
    """

    kind: str
    description: str

    def __new__(cls, name: str, kind: str, description: str) -> "Header":
        """A member from its name, the kind of its value and what it tells."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.kind = kind
        member.description = description
        return member

    REQUEST_ID = "x-request-id", "string", "The request's own x-request-id, or a new one."
    CONTEXT_TOKENS = "x-wave-context-tokens", "integer", "Tokens of the longest prompt."
    CONTEXT_LIMIT = "x-wave-context-limit", "integer", "Effective cap on prompt + completion, tokens."
    TRAIN_LENGTH = "x-wave-train-length", "integer", "Length that the model was trained at, tokens."
    EXTRAPOLATION_FACTOR = "x-wave-extrapolation-factor", "number", "Prompt tokens / training length."
    ZONE = "x-wave-zone", "string", "Zone of trust that the context reaches: trained, validated or hard."
    WARNING = "x-wave-warning", "string", "Why that zone deserves care."
    CLAMPED_MAX_TOKENS = "x-wave-clamped-max-tokens", "integer", "The completion limit after clamping."
    TRUNCATED = "x-wave-truncated", "string", "The policy by which the prompt was cut."
    ORIGINAL_TOKENS = "x-wave-original-tokens", "integer", "Tokens before the cut."
    KEPT_TOKENS = "x-wave-kept-tokens", "string", "Ranges of tokens that were kept."
    KEPT_MESSAGES = "x-wave-kept-messages", "string", "Ranges of messages that were kept."
    KEPT_ITEMS = "x-wave-kept-items", "string", "Ranges of a response's input items that were kept."
    RATELIMIT_LIMIT_REQUESTS = "x-ratelimit-limit-requests", "integer", "Requests a minute of the key."
    RATELIMIT_REMAINING_REQUESTS = "x-ratelimit-remaining-requests", "integer", "Requests left."
    RATELIMIT_RESET_REQUESTS = "x-ratelimit-reset-requests", "string", "Time until all are left again."
    RATELIMIT_LIMIT_TOKENS = "x-ratelimit-limit-tokens", "integer", "Tokens a minute of the key."
    RATELIMIT_REMAINING_TOKENS = "x-ratelimit-remaining-tokens", "integer", "Tokens left."
    RATELIMIT_RESET_TOKENS = "x-ratelimit-reset-tokens", "string", "Time until all are left again."
    RETRY_AFTER = "retry-after", "integer", "Seconds after which another try makes sense."
    RETRY_AFTER_MS = "retry-after-ms", "integer", "The same in milliseconds."
    SHOULD_RETRY = "x-should-retry", "string", "false: a client should not try again by itself."
    WWW_AUTHENTICATE = "www-authenticate", "string", "How to authenticate."
