"""What `wave-serve eval` said and wrote."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Ran(NamedTuple):
    """How a command ended and what it said."""

    status: int
    out: str
    err: str


Eval = Callable[..., Ran]


def result(directory: Path, kind: str = "perplexity") -> dict:
    """What a command wrote."""
    return json.loads((directory / f"{kind}.json").read_text())


def message(ran: Ran) -> str:
    """The one line that a failed command ends with."""
    assert ran.status != 0
    lines = [line for line in ran.err.splitlines() if line.startswith("wave-serve: ")]
    assert len(lines) == 1
    return lines[0].removeprefix("wave-serve: ")
