"""Looks up again and again which servers an entry of the settings stands for; a look-up that fails changes nothing."""

import asyncio
import logging
from collections.abc import Callable

from wave_serve.discovery.found import Found, LookUp, LookUpError
from wave_serve.discovery.listed import listed
from wave_serve.discovery.names import Names
from wave_serve.logs import event
from wave_serve.settings import DiscoverySettings, UpstreamSettings

logger = logging.getLogger("wave_serve.discovery")


class Discovery:
    """The look-ups for one entry of the settings' upstreams. Its methods write it; everyone may read it.

    Attributes:
        place: the entry, in messages and metrics.
        listed: how many servers the last look-up that succeeded found.
        failures: how many look-ups failed.
        problem: why the last look-up failed; None where it did not.
    """

    def __init__(self, place: str, look_up: LookUp, settings: DiscoverySettings) -> None:
        self.place = place
        self.listed = 0
        self.failures = 0
        self.problem: str | None = "not looked up yet"
        self._look_up = look_up
        self._settings = settings

    async def run(self, take: Callable[[tuple[Found, ...]], None]) -> None:
        """Looks up for ever; gives what was found, all of it each time, to `take`."""
        while True:
            try:
                found = await self._found()
            except LookUpError as error:
                self._failed(str(error))
            else:
                self._succeeded(len(found))
                take(found)
            await asyncio.sleep(self._settings.every)

    async def _found(self) -> tuple[Found, ...]:
        """One look-up, as a task of its own: dnspython's waits (`wait_for`) may take no notice of a cancellation."""
        looking = asyncio.create_task(self._look_up())
        try:
            done, _ = await asyncio.wait({looking}, timeout=self._settings.deadline)
        finally:
            looking.cancel()
        if not done:
            raise LookUpError(f"no answer within {self._settings.deadline:g} s")
        return looking.result()

    def _failed(self, problem: str) -> None:
        self.failures += 1
        if problem != self.problem:
            name = "upstreams not looked up; the old list stays"
            event(logger, logging.ERROR, name, source=self.place, reason=problem, listed=self.listed)
        self.problem = problem

    def _succeeded(self, listed: int) -> None:
        if self.problem is not None or listed != self.listed:
            event(logger, logging.INFO, "upstreams looked up", source=self.place, listed=listed)
        self.listed = listed
        self.problem = None


def discovery_of(entry: UpstreamSettings, settings: DiscoverySettings) -> Discovery | None:
    """The look-ups for an entry of the settings; None where it names its one server itself."""
    names = Names(settings)
    if entry.dns is not None:
        root = entry.dns
        return Discovery(entry.place, lambda: names.addresses(root), settings)
    if entry.srv is not None:
        root = entry.srv
        return Discovery(entry.place, lambda: names.services(root), settings)
    if entry.file is not None:
        path = entry.file
        return Discovery(entry.place, lambda: listed(path), settings)
    return None
