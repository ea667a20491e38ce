"""`wave-serve config`: prints an example of the settings file, and says what is wrong with one."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from wave_serve.context.catalogue import ServedModel
from wave_serve.discovery.found import LookUpError
from wave_serve.discovery.listed import listed
from wave_serve.keys.file import load_keys
from wave_serve.keys.store import Store
from wave_serve.settings import Settings
from wave_serve.settings.errors import SettingsError
from wave_serve.settings.example import render_example
from wave_serve.settings.file import load_settings
from wave_serve.tokens.tokenizer import LocalTokenizer, TokenizerError
from wave_serve.upstream.access import access_to

app = typer.Typer(no_args_is_help=True, help="Print an example of the settings file, or check one.")


@app.callback()
def config() -> None:
    """Print an example of the settings file, or check one."""


@app.command()
def example() -> None:
    """Print a settings file with every key, its description and its default."""
    typer.echo(render_example(), nl=False)


@app.command()
def check(file: Annotated[Path, typer.Argument(help="Settings file (YAML).")]) -> None:
    """Check a settings file and the files that it names; say every mistake with its place, or what the file means."""
    settings = load_settings(file)
    mistakes = [*_wrong_tokenizers(settings, file), *_wrong_keys(settings), *_wrong_access(settings, file)]
    mistakes += [*_wrong_lists(settings, file), *_wrong_store(settings, file)]
    if mistakes:
        raise SettingsError("\n".join(mistakes))
    typer.echo(f"{file} is valid.")
    for line in _meaning(settings):
        typer.echo(line)


def _wrong_tokenizers(settings: Settings, file: Path) -> list[str]:
    wrong = []
    for name, model in settings.models.items():
        try:
            if model.tokenizer is not None:
                LocalTokenizer(model.tokenizer)
        except TokenizerError as error:
            wrong.append(f"{file}: models.{name}.tokenizer: {error}")
    return wrong


def _wrong_keys(settings: Settings) -> list[str]:
    try:
        load_keys(settings.auth.keys_file, settings.models)
    except SettingsError as error:
        return [str(error)]
    return []


def _wrong_access(settings: Settings, file: Path) -> list[str]:
    wrong = []
    for index, upstream in enumerate(settings.upstreams):
        try:
            access_to(upstream, f"upstreams.{index}")
        except SettingsError as error:
            wrong.append(f"{file}: {error}")
    return wrong


def _wrong_lists(settings: Settings, file: Path) -> list[str]:
    wrong = []
    for index, upstream in enumerate(settings.upstreams):
        if upstream.file is not None:
            try:
                asyncio.run(listed(upstream.file))
            except LookUpError as error:
                wrong.append(f"{file}: upstreams.{index}.file: {error}")
    return wrong


def _wrong_store(settings: Settings, file: Path) -> list[str]:
    try:
        if settings.limits.store is not None:
            Store(settings.limits)
    except SettingsError as error:
        return [f"{file}: {error}"]
    return []


def _meaning(settings: Settings) -> list[str]:
    """What the settings come to, model by model."""
    lines = []
    for name, model in settings.models.items():
        served = ServedModel(name, model, [], settings.timeouts.retry_after)
        bounds = ", ".join(f"{bound} {tokens}" for bound, tokens in served.bounds().items())
        engine = "what its engine can hold"
        known = f"at most {served.limit()} tokens ({bounds}) and {engine}" if bounds else engine
        counted = "here" if model.tokenizer is not None else "by its upstream"
        lines.append(f"model {name}: {known}; overflow: {model.overflow}; prompts are counted {counted}")
    lines += [f"upstream {one.place}: {', '.join(one.models)}" for one in settings.upstreams]
    return lines
