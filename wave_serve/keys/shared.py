"""Rates and concurrency of each key over several gateways, counted in a store."""

import asyncio
import contextlib
import itertools
import uuid
from collections import defaultdict
from collections.abc import Coroutine, Sequence
from typing import Any

from wave_serve.errors import ApiError
from wave_serve.keys.file import ApiKey
from wave_serve.keys.refusals import (
    concurrency_error,
    rate_error,
    rate_headers,
    too_large_error,
    unknown_error,
    wait_for,
)
from wave_serve.keys.store import Store, StoreDownError
from wave_serve.settings import LimitsSettings, WithoutStore

RENEWALS = 3  # in the time of a lease, so that one that fails costs nothing
WHATEVER_IS_LEFT = -(2**53)  # tokens that have to be there where none need be: no bucket is as far below zero
AT_ONCE = 1000  # requests renewed by one script


class SharedLimits:
    """The use of all keys. Of a running request the store holds a lease, which is renewed here as long as it runs."""

    def __init__(self, settings: LimitsSettings) -> None:
        """Raises SettingsError where the store's password cannot be read."""
        self.store = Store(settings)
        self.settings = settings
        self._name = uuid.uuid4().hex[:12]
        self._numbers = itertools.count()
        self._running: dict[str, str] = {}
        self._renewal: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def replace(self, keys: Sequence[ApiKey]) -> None:
        """The store keeps what was used; the limits come with each request's key."""

    def account(self, key: ApiKey) -> "SharedAccount":
        """One request's use of a key."""
        return SharedAccount(key, self, f"{self._name}-{next(self._numbers)}")

    def place(self, key: ApiKey, what: str) -> str:
        """The name of an entry of the store; by the braces a proxy keeps those of one key on one node."""
        return f"{self.settings.prefix}:{{{key.name}}}:{what}"

    def runs(self, request: str, place: str) -> None:
        """A running request whose lease is to be renewed, until `runs_no_more`."""
        self._running[request] = place
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(self._renew())

    def runs_no_more(self, request: str) -> None:
        """Its lease is not renewed any more."""
        self._running.pop(request, None)

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Has it done while nobody waits for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Ends all of that; the store is told of requests that have ended, within its deadline."""
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.gather(self._renewal, return_exceptions=True)
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=self.settings.deadline)
            for task in late:
                task.cancel()
        await self.store.close()

    async def _renew(self) -> None:
        """Renews all leases again and again, while there are any."""
        wait = self.settings.lease / RENEWALS
        await asyncio.sleep(wait)
        while self._running:
            try:
                await self._renew_all()
            except StoreDownError:
                await asyncio.sleep(min(wait, self.settings.retry))
            else:
                await asyncio.sleep(wait)

    async def _renew_all(self) -> None:
        by_place: defaultdict[str, list[str]] = defaultdict(list)
        for request, place in self._running.items():
            by_place[place].append(request)
        for place, requests in by_place.items():
            for first in range(0, len(requests), AT_ONCE):
                part = requests[first : first + AT_ONCE]
                await self.store.run("renew", [place], [self.settings.lease, *part])
                for ended in [one for one in part if one not in self._running]:
                    # It left while this was under way, and may have been put back.
                    await self.store.run("leave", [place, place], [0, 0, ended])


class SharedAccount:
    """One request's use of a key; `request` is its name in the store."""

    def __init__(self, key: ApiKey, limits: SharedLimits, request: str) -> None:
        self._key = key
        self._limits = limits
        self._request = request
        self._left: dict[str, float] = {}
        self._requests, self._tokens, self._running = (
            limits.place(key, what) for what in ("requests", "tokens", "running")
        )

    async def enter(self) -> None:
        """Counts the request. Raises ApiError 429, or 503 where the store does not answer."""
        key = self._key
        rates = (key.requests_per_minute or 0, key.tokens_per_minute or 0, key.concurrency or 0)
        if not any(rates):
            return
        places = [self._requests, self._tokens, self._running]
        arguments: list[str | float] = [*rates, self._request, self._limits.settings.lease]
        asking = asyncio.create_task(self._ask("enter", places, arguments))
        try:
            answer = await asyncio.shield(asking)
        except asyncio.CancelledError:
            self._limits.in_background(self._undo(asking))
            raise
        if answer is None:
            return
        refusal, requests, tokens = answer
        self._left = {"requests": float(requests), "tokens": float(tokens)}
        if refusal == "concurrency":
            raise concurrency_error(key)
        if refusal == "requests" and key.requests_per_minute is not None:
            wait = wait_for(1, key.requests_per_minute, float(requests))
            raise rate_error(key, "requests", key.requests_per_minute, wait)
        if key.concurrency is not None:
            self._limits.runs(self._request, self._running)

    async def spend(self, tokens: int) -> None:
        """Takes its tokens. Raises ApiError 429, or 503 where the store does not answer."""
        limit = self._key.tokens_per_minute
        if limit is not None and tokens > limit:
            raise too_large_error(self._key, limit, tokens)
        await self._take(tokens, tokens)

    async def check(self) -> None:
        """Raises ApiError 429 where the key has no tokens left, or 503 where the store does not answer."""
        await self._take(1, 0)

    async def charge(self, tokens: int) -> None:
        """Takes tokens that were used already; they are not counted where the store does not answer."""
        limit = self._key.tokens_per_minute
        if limit is not None:
            try:
                _, left = await self._limits.store.run("take", [self._tokens], [limit, WHATEVER_IS_LEFT, tokens])
            except StoreDownError:
                return
            self._left["tokens"] = float(left)

    def headers(self) -> dict[str, str]:
        """`x-ratelimit-*` of what is limited, once the store has told what is left."""
        limits = {"requests": self._key.requests_per_minute, "tokens": self._key.tokens_per_minute}
        found: dict[str, str] = {}
        for unit, limit in limits.items():
            if limit is not None and unit in self._left:
                found |= rate_headers(unit, limit, self._left[unit])
        return found

    def leave(self, unused: int) -> None:
        """Ends the request and returns the tokens that no upstream worked on, while nobody waits for it."""
        self._limits.runs_no_more(self._request)
        if self._key.concurrency is not None or (self._key.tokens_per_minute is not None and unused > 0):
            self._limits.in_background(self._leave(unused))

    async def _undo(self, entering: asyncio.Task[Any]) -> None:
        """Ends a request that left while it was counted; not before it is, or it would count for ever."""
        with contextlib.suppress(ApiError):
            await entering
        await self._leave(0)

    async def _leave(self, unused: int) -> None:
        arguments: list[str | float] = [self._key.tokens_per_minute or 0, unused, self._request]
        try:
            await self._limits.store.run("leave", [self._tokens, self._running], arguments)
        except StoreDownError:
            return  # its lease ends by itself

    async def _take(self, needed: int, taken: int) -> None:
        limit = self._key.tokens_per_minute
        if limit is None:
            return
        answer = await self._ask("take", [self._tokens], [limit, needed, taken])
        if answer is not None:
            there, left = answer
            self._left["tokens"] = float(left)
            if not there:
                raise rate_error(self._key, "tokens", limit, wait_for(needed, limit, float(left)))

    async def _ask(self, script: str, places: Sequence[str], arguments: Sequence[str | float]) -> list[Any] | None:
        """The store's answer; where there is none, None lets the request pass, if the settings say so."""
        try:
            return await self._limits.store.run(script, places, arguments)
        except StoreDownError:
            if self._limits.settings.when_down is WithoutStore.PASS:
                return None
            raise self._unknown() from None

    def _unknown(self) -> ApiError:
        return unknown_error(self._limits.settings.retry)
