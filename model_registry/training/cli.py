"""``wave-serve train``: the command's arguments, and the one place where its errors become one line on stderr."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

# Nothing heavy above: the gateway's command line imports this file to show the command's help.


def train(
    out: Annotated[Path, typer.Option(help="Directory of the run: log, checkpoint and, in model/, the export.")],
    position: Annotated[
        str | None, typer.Option(help="Position encoding: wavelet, rope, alibi or nope.", show_default="wavelet")
    ] = None,
    corpus: Annotated[
        Path | None,
        typer.Option(help="Directory of files to train on.", show_default="the standard library's sources"),
    ] = None,
    pattern: Annotated[
        str | None, typer.Option(help="Names of the files in --corpus, such as '*.txt'.", show_default="*.py")
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="CHECKPOINT", help="Train this checkpoint on, instead of a new model."),
    ] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(help="With --from: text file, directory, JSONL file or data set on disk; may be repeated."),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(
            metavar="CHECKPOINT", help="With --from: what it was before convert; it learns that one's attention first."
        ),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="With --from: serve the result and write its eval.json.")
    ] = True,
    steps: Annotated[int | None, typer.Option(help="Stop after this many steps.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Stop after this many minutes of training.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Change a field of the recipe; may be repeated."),
    ] = None,
) -> None:
    """Train a small model on Python sources, or a checkpoint on any text, and export it as a Hugging Face directory."""
    _refuse_what_is_not_used(source, position=position, corpus=corpus, pattern=pattern, text=text, teacher=teacher)
    if source is not None:
        _train_on(
            source, out, text or [], steps, minutes, overrides or [], teacher=teacher, resume=resume, measured=measure
        )
        return
    try:
        from safetensors import SafetensorError
        from transformers.utils.logging import disable_progress_bar

        from model_registry.positions.wavelet import WaveletError
        from model_registry.training.corpus import PYTHON, read_corpus, standard_library
        from model_registry.training.errors import TrainingError
        from model_registry.training.loop import Budget, run_training
        from model_registry.training.recipe import Recipe, with_overrides
        from model_registry.training.run_directory import RunDirectory
    except ModuleNotFoundError as error:
        typer.echo(f"train: {error.name} is not installed: pip install 'wave-serve[train]'", err=True)
        raise typer.Exit(2) from error

    disable_progress_bar()
    position_override = [] if position is None else [f"position={position}"]
    try:
        recipe = with_overrides(Recipe(), [*position_override, *(overrides or [])])
        budget = Budget(steps=steps, minutes=minutes)
        directory = corpus or standard_library()
        texts = read_corpus(
            directory,
            seed=recipe.split_seed,
            held_out_fraction=recipe.held_out_fraction,
            pattern=pattern or PYTHON,
        )
        last = run_training(
            recipe, texts, RunDirectory(out), budget, resume=resume, command=_command(), report=typer.echo
        )
    except (TrainingError, WaveletError, OSError, SafetensorError) as error:  # a full disk is one of the last two
        typer.echo(f"train: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(f"held-out loss {last['held_out_loss']:.4f} after {last['step']} steps; model in {out / 'model'}")


def _refuse_what_is_not_used(source: Path | None, **given: object) -> None:
    """Ends the command where an option was given that it would not look at."""
    for option in ("text", "teacher") if source is None else ("position", "corpus", "pattern"):
        if given[option]:
            typer.echo(f"train: --{option} {'needs' if source is None else 'does not go with'} --from", err=True)
            raise typer.Exit(2)
    if given["pattern"] and not given["corpus"]:
        typer.echo("train: --pattern needs --corpus", err=True)
        raise typer.Exit(2)


def _train_on(
    source: Path,
    out: Path,
    texts: list[Path],
    steps: int | None,
    minutes: float | None,
    changes: list[str],
    *,
    teacher: Path | None,
    resume: bool,
    measured: bool,
) -> None:
    try:
        from safetensors import SafetensorError
        from transformers.utils.logging import disable_progress_bar

        from model_registry.training.errors import TrainingError
        from model_registry.training.loop import Budget
        from model_registry.training.recalibration.command import recalibrate
    except ModuleNotFoundError as error:
        typer.echo(f"train: {error.name} is not installed: pip install 'wave-serve[train]'", err=True)
        raise typer.Exit(2) from error
    disable_progress_bar()
    try:
        budget = Budget(steps=steps, minutes=minutes)
        recalibrate(
            source,
            out,
            texts,
            budget,
            changes,
            teacher=teacher,
            resume=resume,
            measured=measured,
            command=_command(),
            report=typer.echo,
        )
    except (TrainingError, OSError, SafetensorError) as error:  # a full disk is one of the last two
        typer.echo(f"train: {error}", err=True)
        raise typer.Exit(2) from error


def _command() -> str:
    program = Path(sys.argv[0])
    name = "python -m model_registry.training" if program.name == "__main__.py" else program.name
    threads = os.environ.get("OMP_NUM_THREADS")
    prefix = f"OMP_NUM_THREADS={threads} " if threads else ""
    return prefix + shlex.join([*name.split(), *sys.argv[1:]])
