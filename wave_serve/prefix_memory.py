"""Which upstreams have seen which beginnings of prompts; the least recently used are forgotten."""

from collections import OrderedDict

from wave_serve.prefix import Prefixes
from wave_serve.upstream.upstream import Upstream

MOST_HOLDERS = 8  # upstreams remembered for one beginning; more are no better

Holder = tuple[str, int]  # an upstream's URL and the life of it in which it saw the beginning


class PrefixMemory:
    """A bounded map from digests to the upstreams whose cache should hold that beginning."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._holders: OrderedDict[bytes, tuple[Holder, ...]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._holders)

    def longest(self, prefixes: Prefixes, among: list[Upstream]) -> tuple[int, list[Upstream]]:
        """Bytes of the longest beginning that any of `among` has seen, and which of them have."""
        for length, digest in reversed(prefixes.digests):
            holders = self._holders.get(digest, ())
            found = [upstream for upstream in among if (upstream.base_url, upstream.life) in holders]
            if found:
                return length, found
        return 0, []

    def note(self, prefixes: Prefixes, upstream: Upstream) -> None:
        """Remembers that `upstream` sees a prompt with these beginnings."""
        one = (upstream.base_url, upstream.life)
        for _, digest in prefixes.digests:
            others = [other for other in self._holders.get(digest, ()) if other[0] != one[0]]
            self._holders[digest] = (one, *others[: MOST_HOLDERS - 1])
            self._holders.move_to_end(digest)
        while len(self._holders) > self.limit:
            self._holders.popitem(last=False)
