"""What a key is told of its limits, wherever they are counted: errors, and headers of answers."""

import math

from wave_serve.errors import ApiError, Code, retry_headers, too_many
from wave_serve.headers import Header
from wave_serve.keys.file import ApiKey

MINUTE = 60.0
# Units. After the wait that a 429 announced, rounding may leave a bucket this much short of the unit that was promised;
# the request is let through all the same.
ROUNDING = 0.01
CONCURRENCY_RETRY_S = 1.0  # when one of a key's own requests ends is for its owner to know


def duration(seconds: float) -> str:
    """A span as OpenAI writes it: 120ms, 7.5s, 1m0s, 2h3m0s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    tenths = math.ceil(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    shown = f"{rest / 10:g}s"
    if hours:
        return f"{hours}h{minutes}m{shown}"
    return f"{minutes}m{shown}" if minutes else shown


def wait_for(units: float, limit: int, left: float) -> float:
    """Seconds until a bucket that gains `limit` units a minute and has `left` of them has `units`."""
    missing = units - left
    return missing * MINUTE / limit if missing > ROUNDING else 0.0


def rate_headers(unit: str, limit: int, left: float) -> dict[str, str]:
    """`x-ratelimit-*` of one rate, in OpenAI's format."""
    return {
        f"x-ratelimit-limit-{unit}": str(limit),
        f"x-ratelimit-remaining-{unit}": str(max(0, math.floor(left + 1e-9))),
        f"x-ratelimit-reset-{unit}": duration(wait_for(limit, limit, left)),
    }


def rate_error(key: ApiKey, unit: str, limit: int, wait: float) -> ApiError:
    """A 429 for a rate that is used up for `wait` seconds."""
    message = f"Rate limit reached for the key {key.name}: {limit} {unit} a minute. Try again in {duration(wait)}."
    return too_many(message, wait, Code.RATE_LIMIT_EXCEEDED)


def too_large_error(key: ApiKey, limit: int, tokens: int) -> ApiError:
    """A 429 that no wait can help."""
    message = f"The request asks for {tokens} tokens, more than the key {key.name} may use in a whole minute: "
    message += f"{limit}. Shorten the prompt or lower max_tokens."
    return ApiError(429, message, code=Code.RATE_LIMIT_EXCEEDED, headers={Header.SHOULD_RETRY: "false"})


def concurrency_error(key: ApiKey) -> ApiError:
    """A 429 for a key that runs as many requests as it may."""
    message = f"The key {key.name} may run {key.concurrency} requests at the same time, and does."
    return too_many(message, CONCURRENCY_RETRY_S, Code.CONCURRENCY_LIMIT_EXCEEDED)


def unknown_error(retry_after: float) -> ApiError:
    """A 503 while nobody can tell what a key has used."""
    message = "The limits of API keys cannot be looked up at the moment."
    return ApiError(503, message, code=Code.LIMITS_UNAVAILABLE, headers=retry_headers(retry_after))
