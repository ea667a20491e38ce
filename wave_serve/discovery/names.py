"""Servers that DNS lists: every address of a name, or every target and port of its SRV records."""

from urllib.parse import SplitResult, urlsplit

import dns.asyncresolver
import dns.exception
import dns.rdatatype
import dns.resolver
from dns.rdtypes.IN.SRV import SRV

from wave_serve.discovery.found import Found, LookUpError, checked
from wave_serve.settings import DiscoverySettings

Addresses = tuple[str, ...]


class Names:
    """Looks names up at the nameservers of the settings, or of /etc/resolv.conf with its search list.

    An answer without any record is taken for a failure: a nameserver that has just been started, or a service whose
    servers are all unready for a moment, must not take away the servers that work. Whichever of them have really gone,
    their health checks tell.
    """

    def __init__(self, settings: DiscoverySettings) -> None:
        self._settings = settings
        self._resolver: dns.asyncresolver.Resolver | None = None

    async def addresses(self, root: str) -> tuple[Found, ...]:
        """A server at each address of the root's host. Raises LookUpError."""
        parts = urlsplit(root)
        name = parts.hostname or ""
        found = [
            Found(_with_host(parts, address, parts.port), _tls_name(parts, name))
            for address in await self._addresses(name)
        ]
        return checked(found)

    async def services(self, root: str) -> tuple[Found, ...]:
        """A server at each address and port of the SRV records of the root's host, of those that go first.

        Raises:
            LookUpError: there are none, or a target has no address.
        """
        parts = urlsplit(root)
        records = await self._services(parts.hostname or "")
        first = min(record.priority for record in records)
        found: list[Found] = []
        for record in records:
            if record.priority == first:
                target = record.target.to_text(omit_final_dot=True)
                found += [
                    Found(_with_host(parts, address, record.port), _tls_name(parts, target))
                    for address in await self._addresses(record.target.to_text())
                ]
        return checked(found)

    async def _addresses(self, name: str) -> Addresses:
        try:
            answers = await self._get().resolve_name(name, lifetime=self._settings.deadline, search=True)
        except (dns.exception.DNSException, OSError) as error:
            raise _failed(name, error) from None
        return tuple(answers.addresses())

    async def _services(self, name: str) -> list[SRV]:
        try:
            answer = await self._get().resolve(name, dns.rdatatype.SRV, lifetime=self._settings.deadline, search=True)
        except (dns.exception.DNSException, OSError) as error:
            raise _failed(name, error) from None
        return [record for record in answer if isinstance(record, SRV)]

    def _get(self) -> dns.asyncresolver.Resolver:
        """The resolver; it reads /etc/resolv.conf when it is first needed."""
        if self._resolver is None:
            given = self._settings.nameserver
            self._resolver = dns.asyncresolver.Resolver(configure=given is None)
            if given is not None:
                host, _, port = given.rpartition(":")
                self._resolver.nameservers = [host.removeprefix("[").removesuffix("]")]
                self._resolver.port = int(port)
        return self._resolver


def _with_host(parts: SplitResult, address: str, port: int | None) -> str:
    host = f"[{address}]" if ":" in address else address
    return parts._replace(netloc=host if port is None else f"{host}:{port}").geturl()


def _tls_name(parts: SplitResult, name: str) -> str | None:
    return name if parts.scheme == "https" else None


def _failed(name: str, error: Exception) -> LookUpError:
    if isinstance(error, dns.resolver.NXDOMAIN | dns.resolver.NoAnswer):
        return LookUpError(f"the nameserver knows no address of {name}")
    if isinstance(error, dns.resolver.NoNameservers):
        return LookUpError(f"no nameserver answers for {name}: {error}")
    return LookUpError(f"cannot look up {name}: {error or type(error).__name__}")
