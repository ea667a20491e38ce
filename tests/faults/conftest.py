"""A fake upstream that misbehaves as told, and a gateway before it."""

from collections.abc import Iterator

import pytest
from fake_upstream import FakeUpstream
from running import Running, running, settings_for


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    """A fake upstream, healthy until told otherwise; none of its connections is left when the test ends."""
    with FakeUpstream() as fake:
        yield fake


@pytest.fixture
def gateway(upstream: FakeUpstream) -> Iterator[Running]:
    """A gateway before the fake upstream."""
    with running(settings_for(upstream)) as one:
        yield one
