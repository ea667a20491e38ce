"""The bundled checkpoint, served as a user serves it, and as Transformers loads it."""

import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import served
from openai import OpenAI

from wave_serve.engine.checkpoint import bundled_checkpoint


@pytest.fixture(scope="session")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[served.Served]:
    """`wave-serve serve` without arguments but a free port."""
    with served.serving(bundled_checkpoint(), tmp_path_factory.mktemp("bundled")) as one:
        yield one


@pytest.fixture(scope="session")
def client(bundled: served.Served) -> OpenAI:
    """OpenAI's SDK against the bundled model."""
    return OpenAI(base_url=f"{bundled.url}/v1", api_key="none", max_retries=0, timeout=600)


@pytest.fixture(scope="session")
def train_length() -> int:
    """What the bundled model was trained at, in tokens."""
    return json.loads((bundled_checkpoint() / "config.json").read_text())["train_length"]


@pytest.fixture(scope="session")
def sources() -> list[str]:
    """Real text: twenty modules of the standard library, the longest ones, at most 200,000 characters of each."""
    library = Path(sysconfig.get_path("stdlib"))
    files = sorted(library.glob("*.py"), key=lambda file: (-file.stat().st_size, file.name))
    return [file.read_text(encoding="utf-8", errors="replace")[:200_000] for file in files[:20]]
