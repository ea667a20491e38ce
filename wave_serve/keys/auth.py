"""Who asks: finds the API key of a request."""

import hmac
from collections.abc import Mapping, Sequence

from wave_serve.errors import ApiError, Code
from wave_serve.headers import Header
from wave_serve.keys.file import ApiKey, digest
from wave_serve.keys.limits import Limits
from wave_serve.keys.shared import SharedLimits
from wave_serve.keys.use import KeyUse
from wave_serve.settings import AuthSettings

OPEN_PATHS = ("/health", "/ready")  # probes come without a key
DOCS_PATHS = ("/docs", "/openapi.json")
KEY_HEADERS = ("x-api-key", "api-key")  # of clients made for Anthropic's API and for Azure's
CHALLENGE = {Header.WWW_AUTHENTICATE: "Bearer"}


class Auth:
    """The keys in use; without any, whoever comes may pass."""

    def __init__(self, settings: AuthSettings, keys: Sequence[ApiKey], shared: SharedLimits | None = None) -> None:
        """Counts the use of keys in `shared`, or here."""
        self._settings = settings
        self._keys = tuple(keys)
        self._limits: Limits | SharedLimits = Limits(keys) if shared is None else shared

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

    async def close(self) -> None:
        """Ends the connections to where the use of keys is counted."""
        await self._limits.close()

    def admit(self, path: str, headers: Mapping[str, str]) -> KeyUse | None:
        """The key of a request to `path`, not counted yet; None where none is asked for. Raises ApiError 401."""
        return KeyUse(self._find(_presented(headers)), self._limits) if self.asks(path) else None

    def _find(self, given: str) -> ApiKey:
        theirs = digest(given)
        found: ApiKey | None = None
        for key in self._keys:  # all of them, so that the time tells nothing of which one matched
            if hmac.compare_digest(key.sha256, theirs):
                found = key
        if found is None:
            raise ApiError(401, "The API key is not valid.", code=Code.INVALID_API_KEY, headers=CHALLENGE)
        return found


def _presented(headers: Mapping[str, str]) -> str:
    """The key that a request brings; a bearer token goes before the other headers. Raises ApiError 401."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else ""
    given = [bearer, *(headers.get(name, "").strip() for name in KEY_HEADERS)]
    found = next(filter(None, given), None)
    if found is not None:
        return found
    if token.strip():
        message = "The Authorization header must have the scheme Bearer."
        raise ApiError(401, message, code=Code.INVALID_API_KEY, headers=CHALLENGE)
    message = "You must provide an API key in the Authorization header: `Authorization: Bearer KEY`."
    raise ApiError(401, message, code=Code.MISSING_API_KEY, headers=CHALLENGE)
