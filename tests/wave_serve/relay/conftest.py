"""A gateway before the fake upstream that is at rest when a test ends."""

from collections.abc import Iterator

import pytest
from helpers.cancelling import at_rest
from helpers.fake_upstream import FakeUpstream
from helpers.running import Running, running, settings_for


@pytest.fixture
def gateway(upstream: FakeUpstream) -> Iterator[Running]:
    """A gateway before the fake upstream, which is at rest when the test ends."""
    with running(settings_for(upstream)) as one:
        yield one
        at_rest(one, upstream)
