"""Options of the whole suite; one tiny checkpoint behind one real engine, and a fake upstream."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import served, tiny_checkpoint
from helpers.fake_upstream import FakeUpstream

# httpx reads all authorities of the web for each of its clients: some ten milliseconds, thousands of times.
os.environ["SSL_CERT_DIR"] = str(Path(__file__).parent / "data")  # which holds none


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full-matrix",
        action="store_true",
        help="engine parity over every wavelet, head layout, head size and scaling (minutes more)",
    )


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint that the engine serves; its tokenizer adds a begin-of-text token and it has a chat template."""
    return tiny_checkpoint.build(tmp_path_factory.mktemp("checkpoints") / tiny_checkpoint.NAME)


@pytest.fixture(scope="session")
def real(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[served.Served]:
    """`wave-serve serve` on the checkpoint."""
    with served.serving(checkpoint, tmp_path_factory.mktemp("served")) as one:
        yield one


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    """A fake upstream, healthy until told otherwise."""
    with FakeUpstream() as fake:
        yield fake
