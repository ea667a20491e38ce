"""What one request uses of its API key: the key's rates and concurrency, and the models that it may ask for."""

from typing import Protocol

from wave_serve.errors import ApiError, Code
from wave_serve.keys.file import ApiKey


class Account(Protocol):
    """One request's use of a key's limits, wherever they are counted."""

    async def enter(self) -> None:
        """Counts the request, until `leave`. Raises ApiError 429, or 503 where nobody can tell."""

    async def spend(self, tokens: int) -> None:
        """Takes tokens. Raises ApiError 429, or 503 where nobody can tell."""

    async def check(self) -> None:
        """Raises ApiError 429 where no tokens are left, or 503 where nobody can tell."""

    async def charge(self, tokens: int) -> None:
        """Takes tokens that were used already, whatever is left."""

    def headers(self) -> dict[str, str]:
        """`x-ratelimit-*` of what is limited, as far as it is known."""

    def leave(self, unused: int) -> None:
        """Ends what `enter` began, and returns tokens that were not used."""


class KeyLimits(Protocol):
    """The limits of all keys."""

    def account(self, key: ApiKey) -> Account:
        """A new request's use of a key."""


class KeyUse:
    """One request of a key; counted from `begin` until `end`."""

    def __init__(self, key: ApiKey, limits: KeyLimits) -> None:
        self.key = key
        self._account = limits.account(key)
        self._counted = False
        self._spent = 0

    async def begin(self) -> None:
        """Counts the request. Raises ApiError 429 or 503."""
        await self._account.enter()
        self._counted = True

    def allows(self, model: str) -> bool:
        """Whether the key may use that model."""
        return self.key.models is None or model in self.key.models

    def check_model(self, model: str) -> None:
        """Raises ApiError 403 where the key may not use the model."""
        if not self.allows(model):
            message = f"The key {self.key.name} may not use the model {model}."
            raise ApiError(403, message, param="model", code=Code.MODEL_NOT_ALLOWED)

    async def spend(self, tokens: int) -> None:
        """Takes a counted request's tokens from the key's rate. Raises ApiError 429 or 503."""
        if self._counted:
            await self._account.spend(tokens)
            self._spent = tokens

    async def check(self) -> None:
        """Raises ApiError 429 where a counted request's key has no tokens left, or 503."""
        if self._counted:
            await self._account.check()

    async def charge(self, tokens: int) -> None:
        """Takes tokens that a counted request has used, whatever the key has left."""
        if self._counted:
            await self._account.charge(tokens)

    def headers(self) -> dict[str, str]:
        """`x-ratelimit-*` of the key."""
        return self._account.headers()

    def end(self, *, worked_on: bool) -> None:
        """Ends the request; its tokens are returned where no upstream worked on it."""
        if self._counted:
            self._account.leave(0 if worked_on else self._spent)
