"""A gateway before the fake upstream, in this process or its own, and OpenAI's SDK before the real engine."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import served
from helpers.fake_upstream import FakeUpstream
from helpers.gateway_process import Process
from helpers.running import Running, running, settings_for
from openai import OpenAI


@pytest.fixture
def client(real: served.Served) -> OpenAI:
    """OpenAI's SDK against the real engine's gateway."""
    return OpenAI(base_url=f"{real.url}/v1", api_key="none", max_retries=0)


@pytest.fixture
def gateway(upstream: FakeUpstream) -> Iterator[Running]:
    """A gateway before the fake upstream."""
    with running(settings_for(upstream)) as one:
        yield one


@pytest.fixture
def start(tmp_path: Path, upstream: FakeUpstream) -> Iterator[Callable[..., Process]]:
    """Starts `wave-serve gateway` before the fake upstream, with further settings."""
    started: list[Process] = []

    def start(stdin: int = subprocess.DEVNULL, kind: type[Process] = Process, **options: object) -> Process:
        started.append(kind(tmp_path, upstream, options, stdin))
        started[-1].wait_ready()
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()
