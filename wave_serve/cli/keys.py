"""`wave-serve keys`: makes API keys."""

from typing import Annotated

import typer
from pydantic import ValidationError

from wave_serve.keys.file import ApiKey, entry_for, new_key

app = typer.Typer(no_args_is_help=True, help="Make API keys.")


def _help(field: str) -> str:
    return str(ApiKey.model_fields[field].description)


@app.callback()
def keys() -> None:
    """Make API keys."""


@app.command()
def new(
    name: Annotated[str, typer.Option(help=_help("name"))],
    model: Annotated[list[str] | None, typer.Option(help="A model that the key may use; by default all.")] = None,
    max_context: Annotated[int | None, typer.Option(min=1, help=_help("max_context"))] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help=_help("requests_per_minute"))] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(min=1, help=_help("tokens_per_minute"))] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help=_help("concurrency"))] = None,
    tier: Annotated[str | None, typer.Option(help=_help("tier"))] = None,
) -> None:
    """Print a new key, this once, and the line of the keys file that lets it in."""
    limits = {
        "tier": tier,
        "models": model,
        "max_context": max_context,
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "concurrency": concurrency,
    }
    key = new_key()
    try:
        entry = entry_for(key, name, limits)
    except ValidationError as error:
        detail = error.errors()[0]
        raise typer.BadParameter(f"{detail['loc'][0]}: {detail['msg']}, got {detail['input']!r}") from None
    typer.echo(f"{key}\n\nIt is not stored anywhere. Add to the keys file, under keys:\n\n{entry}")
