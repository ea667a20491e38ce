"""Options of a service of several gateways and of upstreams that come and go."""

import ipaddress
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, PositiveFloat, StringConstraints, model_validator

from wave_serve.settings.secret import Secret, unshown
from wave_serve.settings.section import Frozen

STORE = re.compile(r"rediss?://[^\s/@?#]+(/\d{1,4})?|unix:///[^\s@?#]+(\?db=\d{1,4})?")


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise ValueError("must be ADDRESS:PORT, such as 127.0.0.1:8600 or [::1]:53")
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        raise ValueError("must begin with an IP address: a name would have to be looked up first") from None
    return text


class DiscoverySettings(Frozen):
    """How upstreams are looked up that `dns`, `srv` or `file` list."""

    every: PositiveFloat = Field(5.0, description="Seconds between two look-ups.")
    deadline: PositiveFloat = Field(3.0, description="Seconds that one look-up may take.")
    nameserver: Annotated[str, AfterValidator(_address)] | None = Field(
        None, description="ADDRESS:PORT of the DNS server; where unset, those of /etc/resolv.conf."
    )


class WithoutStore(StrEnum):
    """What becomes of a request while the store of limits cannot be asked."""

    REFUSE = "refuse"
    PASS = "pass"  # noqa: S105 - no password


def _store(url: str) -> str:
    if "@" in url:
        raise unshown("credentials in a URL would be public; give username and password, env:NAME or file:PATH")
    if not STORE.fullmatch(url) or not _has_port(url):
        raise unshown("must be redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix:///PATH?db=DB, and nothing else")
    return url


def _has_port(url: str) -> bool:
    """Whether the host is one and its port, if it has any, a number that ports have."""
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


class LimitsSettings(Frozen):
    """Where the limits of keys are counted: here, or for several gateways together in Redis or Valkey."""

    store: Annotated[str, AfterValidator(_store)] | None = Field(
        None,
        description="redis://HOST:PORT/DB, rediss:// (TLS) or unix:///PATH; where unset, each gateway counts its own.",
    )
    username: str | None = Field(None, description="User of the store's access control, where it is not the default.")
    password: Secret | None = Field(None, description="Its password: env:NAME (a variable) or file:PATH.")
    ca_file: Path | None = Field(
        None, description="Certificates (PEM) of who may vouch for the store, instead of the system's; needs rediss."
    )
    prefix: Annotated[str, StringConstraints(pattern=r"^[\w.:-]{1,64}$")] = Field(
        "wave-serve", description="Begins every key in the store; gateways of one service share it."
    )
    when_down: WithoutStore = Field(
        WithoutStore.REFUSE,
        description="What becomes of requests while the store does not answer: refuse (503) or pass (unlimited).",
    )
    deadline: PositiveFloat = Field(0.25, description="Seconds that the store may take to answer.")
    retry: PositiveFloat = Field(1.0, description="Seconds after a failure until the store is asked again.")
    lease: PositiveFloat = Field(
        30.0, description="Seconds after which what a gateway ran that was killed counts as ended."
    )

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if self.ca_file is not None and not (self.store or "").startswith("rediss:"):
            raise ValueError("ca_file needs a store with rediss")
        if self.username is not None and self.password is None:
            raise ValueError("username needs password beside it")
        return self
