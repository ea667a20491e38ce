"""One entry of the settings' upstreams: the servers that it stands for now, as long as there is one of them."""

from wave_serve.discovery.discovery import discovery_of
from wave_serve.discovery.found import Found
from wave_serve.settings import Settings, UpstreamSettings
from wave_serve.upstream.access import access_to
from wave_serve.upstream.upstream import Upstream


class Source:
    """An entry and its servers. The pool moves them; everyone may read them.

    Attributes:
        entry: as it stands in the settings.
        in_use: whether it stands there still.
        discovery: looks up what it stands for; None where it names its one server.
        listed: where its servers are by the latest list.
        joining: were looked up and have never been ready; nothing is sent to them.
        members: in use. One that is not listed any more is, too, until another can take its place.
        leaving: listed no more; they get nothing new, and what they work on goes on.
    """

    def __init__(self, entry: UpstreamSettings, index: int, settings: Settings) -> None:
        """Raises SettingsError where what its servers want to see cannot be read."""
        self.entry = entry
        self.in_use = True
        self.discovery = discovery_of(entry, settings.discovery)
        self.listed: frozenset[Found] = frozenset()
        self.joining: dict[Found, Upstream] = {}
        self.members: dict[Found, Upstream] = {}
        self.leaving: dict[Found, Upstream] = {}
        self._settings = settings
        self._access = access_to(entry, f"upstreams.{index}")

    @property
    def named(self) -> tuple[Found, ...] | None:
        """The one server that the entry names; None where it has to be looked up."""
        return None if self.entry.base_url is None else (Found(self.entry.base_url),)

    def upstream(self, found: Found) -> Upstream:
        """A server that was found, not looked at yet."""
        return Upstream(
            found.base_url,
            self.entry.models,
            self._settings.timeouts,
            self._settings.routing,
            self._access.of(found.tls_name),
            keeps_responses=self.entry.keeps_responses,
        )
