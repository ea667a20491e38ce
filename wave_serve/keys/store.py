"""Redis or Valkey, asked within a deadline; one that does not answer is left alone for a moment."""

import asyncio
import logging
import time
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from wave_serve.logs import event
from wave_serve.settings import LimitsSettings
from wave_serve.settings.errors import SettingsError
from wave_serve.settings.secret import read_secret

logger = logging.getLogger("wave_serve.limits")
CONNECTIONS = 32
SCRIPTS = ("enter", "take", "leave", "renew")


class StoreDownError(Exception):
    """The store did not answer."""


class Store:
    """Runs the scripts beside this file. Its methods write it; everyone may read it.

    Attributes:
        up: whether the last question was answered.
        failures: how many were not.
    """

    def __init__(self, settings: LimitsSettings) -> None:
        """Raises SettingsError where the password cannot be read."""
        self.up = True
        self.failures = 0
        self._settings = settings
        self._ask_at = 0.0
        self._redis = Redis(connection_pool=_connections(settings))
        bucket = _script("bucket")
        self._scripts = {name: self._redis.register_script(bucket + _script(name)) for name in SCRIPTS}

    async def run(self, script: str, keys: Sequence[str], arguments: Sequence[str | float]) -> list[Any]:
        """What a script returns. Raises StoreDownError, after the settings' deadline at the latest."""
        now = time.monotonic()
        if not self.up:
            if now < self._ask_at:
                raise StoreDownError
            self._ask_at = now + self._settings.retry  # one request asks, the others need not wait for it
        try:
            async with asyncio.timeout(self._settings.deadline):
                answer = await self._scripts[script](keys=list(keys), args=list(arguments))
        except (RedisError, OSError, TimeoutError) as error:
            self._failed(error)
            raise StoreDownError from None
        if not self.up:
            self.up = True
            event(logger, logging.INFO, "store of limits answers again", store=self._settings.store)
        return answer if isinstance(answer, list) else [answer]

    async def close(self) -> None:
        """Closes all connections."""
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        self._ask_at = time.monotonic() + self._settings.retry
        if self.up:
            self.up = False
            late = f"no answer within {self._settings.deadline:g} s"
            reason = late if isinstance(error, TimeoutError) else str(error)
            policy = self._settings.when_down
            name = "store of limits is down"
            event(logger, logging.ERROR, name, store=self._settings.store, reason=reason, requests=policy)


def _connections(settings: LimitsSettings) -> BlockingConnectionPool:
    options: dict[str, Any] = {"username": settings.username} if settings.username is not None else {}
    if settings.password is not None:
        try:
            options["password"] = read_secret(settings.password)
        except ValueError as error:
            raise SettingsError(f"limits.password: {error}") from None
    if settings.ca_file is not None:
        options["ssl_ca_certs"] = str(settings.ca_file)
    return BlockingConnectionPool.from_url(
        settings.store or "",
        max_connections=CONNECTIONS,
        timeout=settings.deadline,
        retry=Retry(NoBackoff(), 0),  # a script that has run must not run twice
        protocol=2,
        decode_responses=True,
        **options,
    )


def _script(name: str) -> str:
    return (files("wave_serve.keys") / f"{name}.lua").read_text(encoding="utf-8")
