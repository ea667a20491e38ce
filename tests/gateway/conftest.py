"""One tiny checkpoint and one real engine behind a real gateway for all tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import served
import tiny_checkpoint
from fake_upstream import FakeUpstream
from openai import OpenAI
from running import Running, running

from wave_serve.settings import Settings


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint that the engine serves; its tokenizer adds a begin-of-text token and it has a chat template."""
    return tiny_checkpoint.build(tmp_path_factory.mktemp("checkpoints") / tiny_checkpoint.NAME)


@pytest.fixture(scope="session")
def real(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[served.Served]:
    """`wave-serve serve` on the checkpoint."""
    one = served.start(checkpoint, tmp_path_factory.mktemp("served"))
    try:
        one.wait_ready()
        yield one
    finally:
        served.stop(one)


@pytest.fixture
def client(real: served.Served) -> OpenAI:
    """OpenAI's SDK against the real engine's gateway."""
    return OpenAI(base_url=f"{real.url}/v1", api_key="none", max_retries=0)


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    """A healthy fake upstream."""
    with FakeUpstream() as fake:
        yield fake


def settings_for(fake: FakeUpstream, *, model: dict | None = None, **options: object) -> Settings:
    """Settings of a gateway before a fake upstream, with short deadlines."""
    timeouts = {"silence": 5.0, "keep_alive": 5.0, "poll": 0.05, "connect": 2.0} | options.pop("timeouts", {})
    described = {
        "models": {fake.model: {"train_length": 100, **(model or {})}},
        "upstreams": [{"base_url": fake.url, "models": [fake.model]}],
        "timeouts": timeouts,
    }
    return Settings.model_validate(described | options)


@pytest.fixture
def gateway(upstream: FakeUpstream) -> Iterator[Running]:
    """A gateway before the fake upstream."""
    with running(settings_for(upstream)) as one:
        yield one


def sdk(one: Running) -> OpenAI:
    """OpenAI's SDK against a gateway, without retries."""
    return OpenAI(base_url=f"{one.url}/v1", api_key="none", max_retries=0, timeout=20)
