"""A gateway before the fake upstream, and OpenAI's SDK before the real engine."""

from collections.abc import Iterator

import pytest
import served
from fake_upstream import FakeUpstream
from openai import OpenAI
from running import Running, running, settings_for


@pytest.fixture
def client(real: served.Served) -> OpenAI:
    """OpenAI's SDK against the real engine's gateway."""
    return OpenAI(base_url=f"{real.url}/v1", api_key="none", max_retries=0)


@pytest.fixture
def gateway(upstream: FakeUpstream) -> Iterator[Running]:
    """A gateway before the fake upstream."""
    with running(settings_for(upstream)) as one:
        yield one
