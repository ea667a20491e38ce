"""The set of upstreams, and all that changes it: look-ups, reloads, servers that become ready or are listed no more."""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from wave_serve.discovery.discovery import Discovery
from wave_serve.discovery.found import Found
from wave_serve.routing.source import Source
from wave_serve.settings import Settings
from wave_serve.upstream.upstream import BeforeReady, OnWindow, Upstream

CANCEL_SECONDS = 1.0  # for a task to take notice of its cancellation
QUIET_SECONDS = 0.1  # between two looks whether an upstream that leaves has done its work


@dataclass(frozen=True)
class Listeners:
    """Who is told of what.

    Attributes:
        before_ready: learns of a server what is to be known before it is used.
        on_members: hears each time that there are other members.
        on_change: hears of each change of a server's state, and of the members.
        on_window: hears the base_url of a server whose max_model_len is another than before.
        on_gone: hears a base_url under which there is no server any more.
    """

    before_ready: BeforeReady
    on_members: Callable[[Sequence[Upstream]], None]
    on_change: Callable[[], None]
    on_window: OnWindow
    on_gone: Callable[[str], None]


class Pool:
    """All upstreams. One that the settings name is a member at once, one that was looked up as soon as it is ready.

    Attributes:
        members: the upstreams in use, in the order of the settings.
        version: grows each time that there are other members.
    """

    def __init__(self, settings: Settings) -> None:
        self.members: tuple[Upstream, ...] = ()
        self.version = 0
        self._listeners: Listeners | None = None
        self._running = False
        self._tasks: dict[object, asyncio.Task[None]] = {}
        self._sources = [Source(entry, index, settings) for index, entry in enumerate(settings.upstreams)]
        for source in self._sources:
            self._take(source, source.named)

    @property
    def all(self) -> list[Upstream]:
        """Every upstream that is known: the members, those that were never ready yet, and those that leave."""
        return [*self.members, *self.joining, *self.leaving]

    @property
    def joining(self) -> list[Upstream]:
        """Those that were looked up and have never been ready."""
        return [one for source in self._sources for one in source.joining.values()]

    @property
    def leaving(self) -> list[Upstream]:
        """Those that get nothing new, as long as something is under way there."""
        return [one for source in self._sources for one in source.leaving.values()]

    @property
    def discoveries(self) -> list[Discovery]:
        """The look-ups."""
        return [source.discovery for source in self._sources if source.discovery is not None and source.in_use]

    def tell(self, listeners: Listeners) -> None:
        """Who is told of changes from now on."""
        self._listeners = listeners
        for source in self._sources:
            for found, upstream in source.members.items():
                self._introduce(source, found, upstream)
        listeners.on_members(self.members)

    def start(self) -> None:
        """Looks at all upstreams for ever, and looks up those that the settings do not name. Needs an event loop."""
        self._running = True
        for source in self._sources:
            self._look_up(source)
        for upstream in self.all:
            self._run(upstream, upstream.watch())

    async def close(self) -> None:
        """Ends all of that, and every connection."""
        self._running = False
        pending = set(self._tasks.values())
        while pending:  # again, since a wait of a library may lose a cancellation
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=CANCEL_SECONDS)
        for upstream in self.all:
            await upstream.client.close()

    def apply(self, settings: Settings) -> None:
        """Takes over other settings: servers of new entries join, those of entries that are gone leave.

        Raises:
            SettingsError: what a new entry needs cannot be read; then nothing has changed.
        """
        before = list(self._sources)
        sources: list[Source] = []
        for index, entry in enumerate(settings.upstreams):
            same = next((source for source in before if source.entry == entry), None)
            if same is not None:
                before.remove(same)
            sources.append(same or Source(entry, index, settings))
        self._sources = [*sources, *before]
        for source in sources:
            source.in_use = True
            self._take(source, source.named)
            self._look_up(source)
        for source in before:
            source.in_use = False
            self._stop(source)
            self._take(source, ())
        if self._listeners is not None:
            self._listeners.on_change()
        for upstream in self.all:
            upstream.apply(settings.routing)
        self._forget_sources()

    def _listed(self, source: Source, listed: Collection[Found]) -> None:
        """A look-up has found these servers."""
        self._take(source, listed)
        if self._listeners is not None:
            self._listeners.on_change()

    def _take(self, source: Source, listed: Collection[Found] | None) -> None:
        """Has the servers of a source join and leave as it lists them now; None changes nothing."""
        if listed is None:
            return
        source.listed = frozenset(listed)
        for found in listed:
            if found not in source.members and found not in source.joining:
                upstream = source.leaving.pop(found, None) or source.upstream(found)
                self._stop(upstream)  # to wait for its end
                self._introduce(source, found, upstream)
                (source.joining if source.discovery is not None else source.members)[found] = upstream
                self._run(upstream, upstream.watch())
        self._settle()

    def _settle(self) -> None:
        """Has all those leave that are listed no more and not missed."""
        for source in self._sources:
            for present in (source.members, source.joining):
                for found in [one for one in present if one not in source.listed and not self._missed(present[one])]:
                    upstream = source.leaving[found] = present.pop(found)
                    upstream.retire()
                    self._run(upstream, self._leave(source, found, upstream))
        self._members_changed()

    def _missed(self, upstream: Upstream) -> bool:
        """Whether it works while none of those that are listed does yet, as where all addresses are others at once."""
        listed = [
            one
            for source in self._sources
            for found, one in (*source.members.items(), *source.joining.items())
            if found in source.listed and not set(one.models).isdisjoint(upstream.models)
        ]
        joining = any(one.life == 0 for one in listed) or not set(listed).isdisjoint(self.joining)
        return upstream.ready and joining and not any(one.ready for one in listed)

    def _introduce(self, source: Source, found: Found, upstream: Upstream) -> None:
        if self._listeners is not None:
            changed = partial(self._changed, source, found)
            upstream.tell(self._listeners.before_ready, changed, self._listeners.on_window)

    def _changed(self, source: Source, found: Found) -> None:
        """The state of a server is another; one that is ready for the first time becomes a member."""
        if found in source.joining and source.joining[found].ready:
            source.members[found] = source.joining.pop(found)
        self._settle()
        if self._listeners is not None:
            self._listeners.on_change()

    def _members_changed(self) -> None:
        members = tuple(one for source in self._sources for one in source.members.values())
        if members == self.members:
            return
        self.members = members
        self.version += 1
        if self._listeners is not None:
            self._listeners.on_members(members)

    async def _leave(self, source: Source, found: Found, upstream: Upstream) -> None:
        """Forgets a server as soon as nothing is under way there."""
        busy = True
        while busy:
            await asyncio.sleep(QUIET_SECONDS)
            busy = upstream.in_flight > 0 or upstream.client.under_way > 0
        del source.leaving[found], self._tasks[upstream]
        self._forget_sources()
        if self._listeners is not None and all(one.base_url != upstream.base_url for one in self.all):
            self._listeners.on_gone(upstream.base_url)
        await upstream.client.close()

    def _forget_sources(self) -> None:
        """Those that are not in the settings any more are kept as long as they have a server."""
        self._sources = [source for source in self._sources if source.in_use or source.members or source.leaving]

    def _look_up(self, source: Source) -> None:
        if source.discovery is not None and source not in self._tasks:
            self._run(source, source.discovery.run(partial(self._listed, source)))

    def _run(self, owner: object, work: Coroutine[Any, Any, None]) -> None:
        """Has `work` run instead of what runs for its owner; not before `start`."""
        self._stop(owner)
        if self._running:
            self._tasks[owner] = asyncio.create_task(work)
        else:
            work.close()

    def _stop(self, owner: object) -> None:
        if owner in self._tasks:
            self._tasks.pop(owner).cancel()
