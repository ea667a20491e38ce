"""Reads settings and keys again while the gateway serves; a mistake keeps the old ones."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wave_serve.gateway import Gateway
from wave_serve.keys.file import ApiKey, load_keys
from wave_serve.logs import event
from wave_serve.settings import Settings
from wave_serve.settings.errors import SettingsError

logger = logging.getLogger("wave_serve.reload")

Signature = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True)
class SettingsSource:
    """Where the settings come from.

    Attributes:
        read: gives them as they are now.
        file: what they are read from, if any.
    """

    read: Callable[[], Settings]
    file: Path | None = None

    def then(self, complete: Callable[[Settings], Settings]) -> "SettingsSource":
        """The same settings, completed by what does not stand in the file."""
        return SettingsSource(lambda: complete(self.read()), self.file)


class Reload:
    """Keeps a gateway up to date with its files."""

    def __init__(self, gateway: Gateway, source: SettingsSource) -> None:
        self._gateway = gateway
        self._source = source
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Has everything read again, whether it changed or not."""
        self._asked.set()

    async def watch(self) -> None:
        """Reloads for ever, each time that a file has changed or `ask` was called."""
        seen = await asyncio.to_thread(self._signature)
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), self._gateway.settings.timeouts.poll)
            found = await asyncio.to_thread(self._signature)
            # A missing file is usually being replaced (written anew, then renamed), so wait for the next look. A SIGHUP
            # reads at once and reports a file that is missing.
            if self._asked.is_set() or (found != seen and None not in found):
                self._asked.clear()
                seen = found
                await self._reload()

    async def _reload(self) -> None:
        try:
            settings, keys = await asyncio.to_thread(self._read)
            kept = self._gateway.apply(settings, keys)
        except ValueError as error:  # as every mistake in a file is
            event(logger, logging.ERROR, "reload refused; the old settings stay", mistakes=str(error).splitlines())
            return
        event(logger, logging.INFO, "reloaded", keys=len(keys), needs_restart=kept or None)

    def _read(self) -> tuple[Settings, tuple[ApiKey, ...]]:
        settings = self._source.read()
        keys = load_keys(settings.auth.keys_file, settings.models)
        if self._gateway.auth.guarded and not keys:
            raise SettingsError("no keys are left, which would open the gateway to everyone; that needs a restart")
        return settings, keys

    def _signature(self) -> Signature:
        files = (self._source.file, self._gateway.settings.auth.keys_file)
        return tuple(_stamp(path) for path in files if path is not None)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Changes whenever a file is written or replaced; links are followed, as a mounted ConfigMap needs."""
    with contextlib.suppress(OSError):
        found = path.stat()
        return found.st_mtime_ns, found.st_ino, found.st_size
    return None
