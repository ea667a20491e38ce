"""Rates and concurrency of each key: token buckets that tell what is left and when there is more."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from wave_serve.errors import ApiError, Code, too_many
from wave_serve.headers import Header
from wave_serve.keys.file import ApiKey

MINUTE = 60.0
# Units. After the wait that a 429 announced, rounding may leave a bucket this much short of the unit that was promised;
# the request is let through all the same.
ROUNDING = 0.01
CONCURRENCY_RETRY_S = 1.0  # when one of a key's own requests ends is for its owner to know


class Bucket:
    """Holds up to `limit` units and gains `limit` a minute."""

    def __init__(self, limit: int, now: float) -> None:
        self.limit = limit
        self._level = float(limit)
        self._at = now

    def level(self, now: float) -> float:
        """Units that may be taken."""
        return min(self.limit, self._level + (now - self._at) * self.limit / MINUTE)

    def take(self, units: float, now: float) -> None:
        """Takes units; a negative number gives them back."""
        self._level = min(self.limit, self.level(now) - units)
        self._at = now

    def until(self, units: float, now: float) -> float:
        """Seconds until `units` may be taken."""
        missing = units - self.level(now)
        return missing * MINUTE / self.limit if missing > ROUNDING else 0.0

    def resized(self, limit: int, now: float) -> "Bucket":
        """A bucket of another limit that is as empty in units as this one."""
        other = Bucket(limit, now)
        other.take(self.limit - self.level(now), now)
        return other


@dataclass
class KeyState:
    """What one key has used."""

    requests: Bucket | None = None
    tokens: Bucket | None = None
    running: int = 0


class Limits:
    """The use of all keys; kept by name, so that it outlives a reload. Per process: see docs/operations.md."""

    def __init__(self, keys: Sequence[ApiKey], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._states: dict[str, KeyState] = {}
        self.replace(keys)

    def replace(self, keys: Sequence[ApiKey]) -> None:
        """Takes over new limits; what a key has used stays used, and what it runs keeps running."""
        now = self._clock()
        before, self._states = self._states, {}
        for key in keys:
            state = before.get(key.name) or KeyState()
            state.requests = _resized(state.requests, key.requests_per_minute, now)
            state.tokens = _resized(state.tokens, key.tokens_per_minute, now)
            self._states[key.name] = state

    def state_of(self, key: ApiKey) -> KeyState:
        """What a key in use has used."""
        return self._states[key.name]

    def enter(self, key: ApiKey) -> KeyState:
        """Counts one request, which `leave` ends. Raises ApiError 429."""
        state, now = self._states[key.name], self._clock()
        if key.concurrency is not None and state.running >= key.concurrency:
            message = f"The key {key.name} may run {key.concurrency} requests at the same time, and does."
            raise too_many(message, CONCURRENCY_RETRY_S, Code.CONCURRENCY_LIMIT_EXCEEDED)
        if state.requests is not None:
            wait = state.requests.until(1, now)
            if wait > 0:
                raise _rate_error(key, "requests", state.requests.limit, wait)
            state.requests.take(1, now)
        state.running += 1
        return state

    def leave(self, state: KeyState) -> None:
        """Ends what `enter` began."""
        state.running -= 1

    def spend(self, key: ApiKey, state: KeyState, tokens: int) -> None:
        """Takes a request's tokens. Raises ApiError 429, which says so where no wait can help."""
        if state.tokens is None:
            return
        if tokens > state.tokens.limit:
            message = f"The request asks for {tokens} tokens, more than the key {key.name} may use in a whole minute: "
            headers = {Header.SHOULD_RETRY: "false"}
            message += f"{state.tokens.limit}. Shorten the prompt or lower max_tokens."
            raise ApiError(429, message, code=Code.RATE_LIMIT_EXCEEDED, headers=headers)
        now = self._clock()
        wait = state.tokens.until(tokens, now)
        if wait > 0:
            raise _rate_error(key, "tokens", state.tokens.limit, wait)
        state.tokens.take(tokens, now)

    def check(self, key: ApiKey, state: KeyState) -> None:
        """Refuses what will be charged for later while the key has no tokens left. Raises ApiError 429."""
        if state.tokens is not None and (wait := state.tokens.until(1, self._clock())) > 0:
            raise _rate_error(key, "tokens", state.tokens.limit, wait)

    def charge(self, state: KeyState, tokens: int) -> None:
        """Takes tokens that were used already; what the key does not have is missing for its next requests."""
        if state.tokens is not None:
            state.tokens.take(tokens, self._clock())

    def give_back(self, state: KeyState, tokens: int) -> None:
        """Returns the tokens of a request that no upstream worked on."""
        if state.tokens is not None:
            state.tokens.take(-tokens, self._clock())

    def headers(self, state: KeyState) -> dict[str, str]:
        """`x-ratelimit-*` of what is limited, in OpenAI's format."""
        now = self._clock()
        found: dict[str, str] = {}
        for unit, bucket in (("requests", state.requests), ("tokens", state.tokens)):
            if bucket is not None:
                found |= _bucket_headers(unit, bucket, now)
        return found


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


def _bucket_headers(unit: str, bucket: Bucket, now: float) -> Mapping[str, str]:
    return {
        f"x-ratelimit-limit-{unit}": str(bucket.limit),
        f"x-ratelimit-remaining-{unit}": str(max(0, math.floor(bucket.level(now) + 1e-9))),
        f"x-ratelimit-reset-{unit}": duration(bucket.until(bucket.limit, now)),
    }


def _rate_error(key: ApiKey, unit: str, limit: int, wait: float) -> ApiError:
    message = f"Rate limit reached for the key {key.name}: {limit} {unit} a minute. Try again in {duration(wait)}."
    return too_many(message, wait, Code.RATE_LIMIT_EXCEEDED)


def _resized(bucket: Bucket | None, limit: int | None, now: float) -> Bucket | None:
    if limit is None:
        return None
    if bucket is None:
        return Bucket(limit, now)
    return bucket if bucket.limit == limit else bucket.resized(limit, now)
