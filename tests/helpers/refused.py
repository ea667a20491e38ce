"""A command that must end with one line for its user."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import typer

if TYPE_CHECKING:
    from collections.abc import Callable


def line_of(capsys: pytest.CaptureFixture[str], command: Callable[[], object]) -> str:
    """What it said on stderr: one line, with exit code 2."""
    with pytest.raises(typer.Exit) as end:
        command()
    assert end.value.exit_code == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    return said[0]
