"""The commands `wave-serve eval perplexity`, `passkey` and `ruler`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from wave_serve.eval.command import run
from wave_serve.eval.passkey.depths import UNIFORM
from wave_serve.eval.passkey.run import PasskeyRun
from wave_serve.eval.perplexity.run import PerplexityRun
from wave_serve.eval.ruler.run import RulerRun
from wave_serve.eval.settings import PasskeySettings, PerplexitySettings, Protocol, RulerSettings

app = typer.Typer(
    name="eval",
    help="Measure loss or retrieval by length, through an endpoint.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
LOSS, KEY, RULER = PerplexitySettings.model_fields, PasskeySettings.model_fields, RulerSettings.model_fields


def _text(field: Any) -> str:
    return str(field.description)


BaseUrls = Annotated[
    list[str], typer.Option("--base-url", help="URL or NAME=URL of an endpoint; may be repeated to compare several.")
]
Out = Annotated[Path, typer.Option(file_okay=False, help=_text(LOSS["out"]))]
Lengths = Annotated[str, typer.Option(help=_text(LOSS["lengths"]))]
Model = Annotated[str | None, typer.Option(help=_text(LOSS["model"]))]
TrainLength = Annotated[int | None, typer.Option(min=1, help=_text(LOSS["train_length"]))]
Resume = Annotated[bool, typer.Option("--resume", help=_text(LOSS["resume"]))]
Parallel = Annotated[int, typer.Option(min=1, help=_text(LOSS["parallel"]))]
Timeout = Annotated[float, typer.Option(min=0.1, help=_text(LOSS["timeout"]))]
Plot = Annotated[bool, typer.Option(help=_text(LOSS["plot"]))]
Seed = Annotated[int, typer.Option(min=0, help=_text(LOSS["seed"]))]


@app.command()
def perplexity(
    base_url: BaseUrls,
    out: Out,
    lengths: Lengths = LOSS["lengths"].default,
    text: Annotated[list[Path] | None, typer.Option(help=_text(LOSS["texts"]))] = None,
    protocol: Annotated[Protocol, typer.Option(help=_text(LOSS["protocol"]))] = LOSS["protocol"].default,
    samples: Annotated[int, typer.Option(min=1, help=_text(LOSS["samples"]))] = LOSS["samples"].default,
    end_tokens: Annotated[int | None, typer.Option(min=1, help=_text(LOSS["end_tokens"]))] = None,
    block_tokens: Annotated[int, typer.Option(min=1, help=_text(LOSS["block_tokens"]))] = LOSS["block_tokens"].default,
    resamples: Annotated[int, typer.Option(min=1, help=_text(LOSS["resamples"]))] = LOSS["resamples"].default,
    separator: Annotated[str, typer.Option(help=_text(LOSS["separator"]))] = LOSS["separator"].default,
    model: Model = None,
    train_length: TrainLength = None,
    resume: Resume = LOSS["resume"].default,
    parallel: Parallel = LOSS["parallel"].default,
    timeout: Timeout = LOSS["timeout"].default,
    plot: Plot = LOSS["plot"].default,
    seed: Seed = LOSS["seed"].default,
) -> None:
    """Loss per token, perplexity and bits per byte of texts, by length."""
    options = {name: value for name, value in locals().items() if name != "text"}
    run("perplexity", PerplexitySettings, PerplexityRun, options | {"texts": tuple(text or ())})


@app.command()
def passkey(
    base_url: BaseUrls,
    out: Out,
    lengths: Lengths = KEY["lengths"].default,
    depths: Annotated[str, typer.Option(help=_text(KEY["depths"]))] = ",".join(map(str, KEY["depths"].default)),
    trials: Annotated[int, typer.Option(min=1, help=_text(KEY["trials"]))] = KEY["trials"].default,
    text: Annotated[Path | None, typer.Option(help=_text(KEY["text"]))] = None,
    model: Model = None,
    train_length: TrainLength = None,
    resume: Resume = KEY["resume"].default,
    parallel: Parallel = KEY["parallel"].default,
    timeout: Timeout = KEY["timeout"].default,
    plot: Plot = KEY["plot"].default,
    seed: Seed = KEY["seed"].default,
) -> None:
    """Exact answers about a key hidden in filler, by length and depth."""
    listed = depths if depths == UNIFORM else tuple(part.strip() for part in depths.split(","))
    options = locals() | {"depths": listed}
    del options["listed"]
    run("passkey", PasskeySettings, PasskeyRun, options)


@app.command()
def ruler(
    base_url: BaseUrls,
    out: Out,
    lengths: Lengths = RULER["lengths"].default,
    tasks: Annotated[str, typer.Option(help=_text(RULER["tasks"]))] = ",".join(RULER["tasks"].default),
    trials: Annotated[int, typer.Option(min=1, help=_text(RULER["trials"]))] = RULER["trials"].default,
    model: Model = None,
    train_length: TrainLength = None,
    resume: Resume = RULER["resume"].default,
    parallel: Parallel = RULER["parallel"].default,
    timeout: Timeout = RULER["timeout"].default,
    plot: Plot = RULER["plot"].default,
    seed: Seed = RULER["seed"].default,
) -> None:
    """Keys, chains of variables and frequent words by length, after RULER's tasks."""
    options = locals() | {"tasks": tuple(part.strip() for part in tasks.split(","))}
    run("ruler", RulerSettings, RulerRun, options)
