"""Runs one evaluation from its options to its files and exit status."""

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from wave_serve.eval.endpoint import read_address
from wave_serve.eval.errors import EvalError, OptionError
from wave_serve.eval.journal import Journal
from wave_serve.eval.passkey.run import PasskeyRun
from wave_serve.eval.perplexity.run import PerplexityRun
from wave_serve.eval.plot import check_plotting, draw
from wave_serve.eval.results import check_files, print_table, write_json, write_markdown
from wave_serve.eval.ruler.run import RulerRun
from wave_serve.eval.settings import EvalSettings
from wave_serve.settings import redacted
from wave_serve.settings.secret import UNSHOWN

Evaluation = PerplexityRun | PasskeyRun | RulerRun
INTERRUPTED = 130


def run(
    kind: str,
    settings_type: type[EvalSettings],
    run_type: Callable[[Any, Journal], Evaluation],
    options: dict[str, Any],
) -> None:
    """Measures, and writes what was measured however that ended; a failure is one line and status 1."""
    console = Console(stderr=True)
    try:
        settings = _settings(settings_type, options)
        if settings.plot:
            check_plotting()
        check_files(settings.out, kind)
        with Journal(settings.out / f"{kind}.jsonl", resume=settings.resume) as journal:
            work = run_type(settings, journal)
            failure: str | None = "ended by a mistake in this program"
            try:
                failure, status = _measure(work, console)
            finally:
                rows = work.rows()
                unwritten = _write(kind, settings, work, rows, failure) if rows else []
            if unwritten:
                failure, status = "; ".join([failure, *unwritten] if failure else unwritten), status or 1
    except EvalError as error:
        failure, status, rows = str(error), 1, []
    if failure:
        kept = f"; what was measured is kept in {settings.out}, go on with --resume" if rows else ""
        typer.echo(f"wave-serve: {failure}{kept}", err=True)
        raise typer.Exit(status)


def _measure(work: Evaluation, console: Console) -> tuple[str | None, int]:
    """The reason why it ended early, if it did, and the exit status."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
            asyncio.run(work.measure(progress))
    except EvalError as error:
        return str(error), 1
    except KeyboardInterrupt:
        return "interrupted", INTERRUPTED
    return None, 0


def _write(
    kind: str, settings: EvalSettings, work: Evaluation, rows: list[dict[str, Any]], failure: str | None
) -> list[str]:
    """Writes each output; one that fails keeps no other from being written. Returns what failed, and why."""
    facts = work.facts()
    command = ["wave-serve", *sys.argv[1:]]
    lengths = [endpoint["train_length"] for endpoint in facts["endpoints"]]
    outputs: dict[str, Callable[[], None]] = {
        f"{kind}.json": lambda: write_json(settings.out / f"{kind}.json", kind, command, facts, rows, failure),
        f"{kind}.md": lambda: write_markdown(settings.out / f"{kind}.md", kind, rows),
        "the plot": lambda: draw(settings.out, kind, rows, lengths) if settings.plot else None,
        "the table": lambda: print_table(Console(markup=False, emoji=False), kind, rows),  # names are what they are
    }
    failed = []
    for name, write in outputs.items():
        try:
            write()
        except Exception as error:  # of any kind, matplotlib's included
            failed.append(f"cannot write {name}: {type(error).__name__}: {error}")
    return failed


def _settings(settings_type: type[EvalSettings], options: dict[str, Any]) -> EvalSettings:
    """The settings of a command line. Raises OptionError naming the option and its value."""
    addresses = [dict(zip(("name", "base_url"), read_address(url), strict=True)) for url in options.pop("base_url")]
    try:
        settings = settings_type(addresses=addresses, **options)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        option = "base-url" if first["loc"][0] == "addresses" else str(first["loc"][0])
        shown = "" if first["type"] == UNSHOWN else f" {redacted(repr(first['input']))}"
        raise OptionError(f"--{option}{shown}: {first['msg'].removeprefix('Value error, ')}") from None
    names = [address["name"] for address in addresses]
    for name in names:
        if names.count(name) > 1:
            raise OptionError(f"--base-url: two endpoints are named {name!r}; name them apart, NAME=URL")
    return settings
