"""Writes what was measured: JSON, a table on the terminal and as Markdown."""

import datetime
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from wave_serve import version
from wave_serve.eval.errors import OutputError

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A column: its heading, the row's field, its format, and the field of its 95 % interval."""

    heading: str
    field: str
    form: str = ""
    interval: str | None = None

    def cell(self, row: Row, between: str) -> str:
        """The value of a row, `between`, and its interval; a dash where there is no value."""
        value = row[self.field]
        if value is None:
            return "-"
        text = format(value, self.form)
        bounds = row[self.interval] if self.interval else None
        if bounds is None or None in bounds:
            return text
        return f"{text}{between}[{bounds[0]:{self.form}}, {bounds[1]:{self.form}}]"


COMMON = (Column("endpoint", "endpoint"), Column("length", "length", ","), Column("x train", "multiple", ".4g"))
COLUMNS = {
    "perplexity": (
        *COMMON,
        Column("loss", "nats_per_token", ".3f", "nats_per_token_interval"),
        Column("perplexity", "perplexity", ".4g", "perplexity_interval"),
        Column("bits per byte", "bits_per_byte", ".3f", "bits_per_byte_interval"),
        Column("loss at end", "end_nats_per_token", ".3f", "end_nats_per_token_interval"),
        Column("difference", "difference", "+.3f", "difference_interval"),
    ),
    "passkey": (
        *COMMON,
        Column("exact", "accuracy", ".1%", "accuracy_interval"),
        Column("trials", "trials", ","),
    ),
    "ruler": (
        COMMON[0],
        Column("task", "task"),
        *COMMON[1:],
        Column("score", "score", ".1%"),
        Column("all right", "accuracy", ".1%", "accuracy_interval"),
        Column("trials", "trials", ","),
    ),
}
INTERVAL_WIDTH = 8  # the widest bound, such as `[-0.123,`
CAPTIONS = {
    "perplexity": "Nats per token; difference from the reference length; in brackets 95 % intervals.",
    "passkey": "In brackets 95 % intervals.",
    "ruler": "Score: the share of what was asked for that the answers hold; in brackets 95 % intervals.",
}


def versions() -> dict[str, str]:
    """What made the numbers, on this side of the endpoint."""
    return {"wave-serve": version(), "python": platform.python_version()}


def check_files(directory: Path, kind: str) -> None:
    """Raises OutputError where one of the files could not be written; tried before hours are spent on measuring."""
    for name in (f"{kind}.json", f"{kind}.md", f"{kind}.json.tmp"):
        path = directory / name
        wrong = None
        try:
            if path.is_dir():
                wrong = "it is a directory"
            elif path.exists() and not os.access(path, os.W_OK):
                wrong = "no permission"
        except OSError as error:  # nobody may look there, or a name is too long
            wrong = error.strerror
        if wrong is not None:
            raise OutputError(f"cannot write {path}: {wrong}")


def write_json(
    path: Path, kind: str, command: Sequence[str], facts: Row, rows: Sequence[Row], error: str | None
) -> None:
    """The whole result; an older one is replaced only once the new one is complete."""
    document = {
        "kind": kind,
        "command": list(command),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "error": error,
        **facts,
        "rows": list(rows),
    }
    draft = path.with_suffix(".json.tmp")
    draft.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    draft.replace(path)


def write_markdown(path: Path, kind: str, rows: Sequence[Row]) -> None:
    """The table as Markdown."""
    columns = COLUMNS[kind]
    lines = [[column.heading for column in columns], ["---"] * len(columns)]
    lines += [[column.cell(row, " ") for column in columns] for row in rows]
    table = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    path.write_text(f"{table}\n{CAPTIONS[kind]}\n", encoding="utf-8")


def print_table(console: Console, kind: str, rows: Sequence[Row]) -> None:
    """The table on the terminal."""
    table = Table(box=SIMPLE, padding=0, caption=CAPTIONS[kind])
    for column in COLUMNS[kind]:
        widest = max(INTERVAL_WIDTH if column.interval else 0, *map(len, column.heading.split()))
        table.add_column(
            column.heading,
            justify="left" if column.field in ("endpoint", "task") else "right",
            overflow="fold",
            min_width=widest,
        )
    for row in rows:
        table.add_row(*(column.cell(row, "\n") for column in COLUMNS[kind]))
    console.print(table)
