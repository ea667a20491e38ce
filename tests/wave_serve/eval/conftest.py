"""Endpoints, texts and the command line of the evaluations."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.eval_command import Eval, Ran
from helpers.fake_endpoint import FakeEndpoint

from wave_serve.cli import main as cli


@pytest.fixture
def endpoint() -> Iterator[FakeEndpoint]:
    """A healthy endpoint: training length 64, limit 1,000 tokens."""
    with FakeEndpoint() as fake:
        yield fake


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """2,000 bytes that are as many tokens, none alike for long."""
    path = tmp_path / "text.txt"
    path.write_text("".join(chr(32 + (index * index + index // 7) % 90) for index in range(2000)))
    return path


@pytest.fixture
def wave_eval(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Eval:
    """Runs `wave-serve eval ...` in this process; a plot takes seconds, so it is drawn where a test asks."""

    def run(*arguments: object, plot: bool = False) -> Ran:
        drawing = [] if plot else ["--no-plot"]
        monkeypatch.setattr(sys, "argv", ["wave-serve", "eval", *map(str, arguments), *drawing])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return Ran(end.value.code or 0, said.out, said.err)

    return run
