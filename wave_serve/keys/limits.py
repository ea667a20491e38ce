"""Rates and concurrency of each key, counted here: token buckets that tell what is left and when there is more."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wave_serve.keys.file import ApiKey
from wave_serve.keys.refusals import MINUTE, concurrency_error, rate_error, rate_headers, too_large_error, wait_for


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
        return wait_for(units, self.limit, self.level(now))

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
    """The use of all keys; kept by name, so that it outlives a reload. Of this process: see docs/scaling.md."""

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

    def account(self, key: ApiKey) -> "LocalAccount":
        """One request's use of a key."""
        return LocalAccount(key, self, self.state_of(key))

    async def close(self) -> None:
        """Nothing is left to be told to anyone."""

    def enter(self, key: ApiKey) -> KeyState:
        """Counts one request, which `leave` ends. Raises ApiError 429."""
        state, now = self._states[key.name], self._clock()
        if key.concurrency is not None and state.running >= key.concurrency:
            raise concurrency_error(key)
        if state.requests is not None:
            wait = state.requests.until(1, now)
            if wait > 0:
                raise rate_error(key, "requests", state.requests.limit, wait)
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
            raise too_large_error(key, state.tokens.limit, tokens)
        now = self._clock()
        wait = state.tokens.until(tokens, now)
        if wait > 0:
            raise rate_error(key, "tokens", state.tokens.limit, wait)
        state.tokens.take(tokens, now)

    def check(self, key: ApiKey, state: KeyState) -> None:
        """Refuses what will be charged for later while the key has no tokens left. Raises ApiError 429."""
        if state.tokens is not None and (wait := state.tokens.until(1, self._clock())) > 0:
            raise rate_error(key, "tokens", state.tokens.limit, wait)

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
                found |= rate_headers(unit, bucket.limit, bucket.level(now))
        return found


class LocalAccount:
    """One request's use of a key.

    It asks only the state that the key had when the request came: a reload may remove the key while it runs.
    """

    def __init__(self, key: ApiKey, limits: Limits, state: KeyState) -> None:
        self._key = key
        self._limits = limits
        self._state = state

    async def enter(self) -> None:
        """Counts the request. Raises ApiError 429."""
        self._limits.enter(self._key)

    async def spend(self, tokens: int) -> None:
        """Takes its tokens. Raises ApiError 429."""
        self._limits.spend(self._key, self._state, tokens)

    async def check(self) -> None:
        """Raises ApiError 429 where the key has no tokens left."""
        self._limits.check(self._key, self._state)

    async def charge(self, tokens: int) -> None:
        """Takes tokens that were used already."""
        self._limits.charge(self._state, tokens)

    def headers(self) -> dict[str, str]:
        """`x-ratelimit-*` of what is limited."""
        return self._limits.headers(self._state)

    def leave(self, unused: int) -> None:
        """Ends the request and returns the tokens that no upstream worked on."""
        self._limits.leave(self._state)
        self._limits.give_back(self._state, unused)


def _resized(bucket: Bucket | None, limit: int | None, now: float) -> Bucket | None:
    if limit is None:
        return None
    if bucket is None:
        return Bucket(limit, now)
    return bucket if bucket.limit == limit else bucket.resized(limit, now)
