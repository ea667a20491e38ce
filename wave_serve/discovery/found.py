"""What a look-up finds."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

MOST = 1000  # upstreams of one entry of the settings; a longer list is a mistake


@dataclass(frozen=True)
class Found:
    """One server that was found.

    Attributes:
        base_url: its root.
        tls_name: the name that its certificate is for, where its root has an address instead; None for the root's own.
    """

    base_url: str
    tls_name: str | None = None


LookUp = Callable[[], Coroutine[Any, Any, tuple[Found, ...]]]
"""Gives all servers there are, or raises LookUpError."""


class LookUpError(Exception):
    """Nothing can be said of the servers there are; the message says why."""


def checked(found: list[Found]) -> tuple[Found, ...]:
    """Each server once, in a fixed order. Raises LookUpError where there are more than anyone runs."""
    once = tuple(sorted(set(found), key=lambda one: (one.base_url, one.tls_name or "")))
    if len(once) > MOST:
        raise LookUpError(f"it lists {len(once)} servers, more than {MOST}")
    return once
