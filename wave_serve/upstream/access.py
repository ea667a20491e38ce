"""What one vLLM server wants to see before it answers: a key, headers, a certificate."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from wave_serve.settings import UpstreamSettings
from wave_serve.settings.errors import SettingsError
from wave_serve.settings.secret import read_secret


@dataclass(frozen=True)
class Access:
    """How to be let in.

    Attributes:
        headers: go onto every request to the server; they may be secret.
        tls: the certificates of an https connection; None for the system's.
        tls_name: the name that the server's certificate has to be for; None for that of its URL.
    """

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    tls: ssl.SSLContext | None = None
    tls_name: str | None = None

    def of(self, tls_name: str | None) -> "Access":
        """The same, for the server whose certificate is for that name."""
        return replace(self, tls_name=tls_name)


def access_to(settings: UpstreamSettings, place: str) -> Access:
    """Reads what the settings name; `place` stands for them in messages, such as `upstreams.0`.

    Raises:
        SettingsError: a variable that is not set, or a file that cannot be used; no message holds a secret.
    """
    headers = {name: _value(f"{place}.headers.{name}", source) for name, source in settings.headers.items()}
    if settings.api_key is not None:
        headers["authorization"] = f"Bearer {_value(f'{place}.api_key', settings.api_key)}"
    return Access(headers, _tls(settings, place))


def _value(place: str, source: str) -> str:
    try:
        return read_secret(source)
    except ValueError as error:
        raise SettingsError(f"{place}: {error}") from None


def _tls(settings: UpstreamSettings, place: str) -> ssl.SSLContext | None:
    if settings.ca_file is None and settings.client_certificate is None:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except OSError as error:
        raise _unusable(f"{place}.ca_file", settings.ca_file, error) from None
    if settings.client_certificate is not None:
        try:
            # No password: asked for one, OpenSSL would wait at the terminal.
            context.load_cert_chain(settings.client_certificate, settings.client_key, password="")
        except (OSError, ValueError) as error:
            files = " with ".join(str(one) for one in (settings.client_certificate, settings.client_key) if one)
            raise _unusable(f"{place}.client_certificate", files, error) from None
    return context


def _unusable(place: str, file: Path | str | None, error: Exception) -> SettingsError:
    reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    return SettingsError(f"{place}: cannot use {file}: {reason}")
