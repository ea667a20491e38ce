"""Who asks: finds the key of a request and holds the request against what the key may do."""

import hmac
from collections.abc import Sequence

from wave_serve.errors import ApiError
from wave_serve.exchange import Exchange
from wave_serve.keys_file import ApiKey, digest
from wave_serve.limits import Limits
from wave_serve.settings_auth import AuthSettings

OPEN_PATHS = ("/health", "/ready")  # probes come without a key
DOCS_PATHS = ("/docs", "/openapi.json")
CHALLENGE = {"www-authenticate": "Bearer"}


class KeyUse:
    """One request of a key; counted from `Auth.enter` until `end`."""

    def __init__(self, key: ApiKey, limits: Limits, *, counted: bool) -> None:
        self.key = key
        self._limits = limits
        self._state = limits.enter(key) if counted else None
        self._spent = 0

    def allows(self, model: str) -> bool:
        """Whether the key may use that model."""
        return self.key.models is None or model in self.key.models

    def spend(self, tokens: int) -> None:
        """Takes the request's tokens. Raises ApiError 429."""
        if self._state is not None:
            self._limits.spend(self.key, self._state, tokens)
            self._spent = tokens

    def headers(self) -> dict[str, str]:
        """`x-ratelimit-*` of the key."""
        return {} if self._state is None else self._limits.headers(self._state)

    def end(self, *, worked_on: bool) -> None:
        """Ends the request; its tokens are returned where no upstream worked on it."""
        if self._state is not None:
            self._limits.leave(self._state)
            if not worked_on:
                self._limits.give_back(self._state, self._spent)


class Auth:
    """The keys in use; without any, whoever comes may pass."""

    def __init__(self, settings: AuthSettings, keys: Sequence[ApiKey]) -> None:
        self._settings = settings
        self._keys = tuple(keys)
        self._limits = Limits(keys)

    @property
    def guarded(self) -> bool:
        """Whether there are keys at all."""
        return bool(self._keys)

    def asks(self, path: str) -> bool:
        """Whether a key is asked for at that path."""
        if not self._keys or path in OPEN_PATHS:
            return False
        if path == "/metrics":
            return self._settings.protect_metrics
        return self._settings.protect_docs or path not in DOCS_PATHS

    def apply(self, settings: AuthSettings, keys: Sequence[ApiKey]) -> None:
        """Takes over other keys; requests that run keep running."""
        self._settings = settings
        self._keys = tuple(keys)
        self._limits.replace(keys)

    def enter(self, exchange: Exchange, path: str, method: str, authorization: str | None) -> None:
        """Lets a request pass, counted where it is one that works. Raises ApiError 401 or 429."""
        if not self.asks(path):
            return
        key = self._find(authorization)
        exchange.key_name = key.name
        exchange.key_limit = key.max_context
        exchange.headers |= self._limits.headers_of(key)
        # Beyond this line only its own state is asked: a reload may remove the key while the request runs.
        exchange.key_use = KeyUse(key, self._limits, counted=method == "POST")
        exchange.headers |= exchange.key_use.headers()

    def _find(self, authorization: str | None) -> ApiKey:
        scheme, _, given = (authorization or "").partition(" ")
        if not given.strip():
            message = "You must provide an API key in the Authorization header: `Authorization: Bearer KEY`."
            raise ApiError(401, message, code="missing_api_key", headers=CHALLENGE)
        if scheme.lower() != "bearer":
            message = "The Authorization header must have the scheme Bearer."
            raise ApiError(401, message, code="invalid_api_key", headers=CHALLENGE)
        theirs = digest(given.strip())
        found: ApiKey | None = None
        for key in self._keys:  # all of them, so that the time tells nothing of which one matched
            if hmac.compare_digest(key.sha256, theirs):
                found = key
        if found is None:
            raise ApiError(401, "The API key is not valid.", code="invalid_api_key", headers=CHALLENGE)
        return found


def check_model(exchange: Exchange, model: str) -> None:
    """Raises ApiError 403 where the request's key may not use the model."""
    use = exchange.key_use
    if use is not None and not use.allows(model):
        message = f"The key {use.key.name} may not use the model {model}."
        raise ApiError(403, message, param="model", code="model_not_allowed")


def spend_tokens(exchange: Exchange, tokens: int) -> None:
    """Holds a generation's tokens against its key's rate. Raises ApiError 429."""
    use = exchange.key_use
    if use is None:
        return
    try:
        use.spend(tokens)
    finally:
        exchange.headers |= use.headers()
