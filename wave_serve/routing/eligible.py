"""The upstreams that may take one request, as they are at the moment."""

from collections.abc import Callable, Sequence
from typing import overload

from wave_serve.routing.pool import Pool
from wave_serve.upstream.upstream import Upstream


class Eligible(Sequence[Upstream]):
    """Found again each time that the pool has other members, so that a request that waits can go to a new one."""

    def __init__(self, pool: Pool, find: Callable[[], list[Upstream]]) -> None:
        self._pool = pool
        self._find = find
        self._version = pool.version
        self._found = find()

    def _now(self) -> list[Upstream]:
        if self._version != self._pool.version:
            self._version, self._found = self._pool.version, self._find()
        return self._found

    def __len__(self) -> int:
        return len(self._now())

    @overload
    def __getitem__(self, index: int) -> Upstream: ...
    @overload
    def __getitem__(self, index: slice) -> list[Upstream]: ...
    def __getitem__(self, index: int | slice) -> Upstream | list[Upstream]:
        return self._now()[index]
