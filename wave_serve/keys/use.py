"""What one request uses of its API key: the key's rates and concurrency, and the models that it may ask for."""

from wave_serve.errors import ApiError, Code
from wave_serve.keys.file import ApiKey
from wave_serve.keys.limits import Limits


class KeyUse:
    """One request of a key; counted from `begin` until `end`.

    It asks only the state that the key had when the request came: a reload may remove the key while it runs.
    """

    def __init__(self, key: ApiKey, limits: Limits) -> None:
        self.key = key
        self._limits = limits
        self._state = limits.state_of(key)
        self._counted = False
        self._spent = 0

    def begin(self) -> None:
        """Counts the request. Raises ApiError 429."""
        self._limits.enter(self.key)
        self._counted = True

    def allows(self, model: str) -> bool:
        """Whether the key may use that model."""
        return self.key.models is None or model in self.key.models

    def check_model(self, model: str) -> None:
        """Raises ApiError 403 where the key may not use the model."""
        if not self.allows(model):
            message = f"The key {self.key.name} may not use the model {model}."
            raise ApiError(403, message, param="model", code=Code.MODEL_NOT_ALLOWED)

    def spend(self, tokens: int) -> None:
        """Takes a counted request's tokens from the key's rate. Raises ApiError 429."""
        if self._counted:
            self._limits.spend(self.key, self._state, tokens)
            self._spent = tokens

    def check(self) -> None:
        """Raises ApiError 429 where a counted request's key has no tokens left."""
        if self._counted:
            self._limits.check(self.key, self._state)

    def charge(self, tokens: int) -> None:
        """Takes tokens that a counted request has used, whatever the key has left."""
        if self._counted:
            self._limits.charge(self._state, tokens)

    def headers(self) -> dict[str, str]:
        """`x-ratelimit-*` of the key."""
        return self._limits.headers(self._state)

    def end(self, *, worked_on: bool) -> None:
        """Ends the request; its tokens are returned where no upstream worked on it."""
        if self._counted:
            self._limits.leave(self._state)
            if not worked_on:
                self._limits.give_back(self._state, self._spent)
