"""The command line `wave-serve`."""

import json
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from wave_serve.cli.added import added_commands, load_command
from wave_serve.cli.config import app as config_commands
from wave_serve.cli.keys import app as keys
from wave_serve.errors import ExplainedError
from wave_serve.logs import configure_logging
from wave_serve.run.reload import SettingsSource
from wave_serve.run.serve import run_gateway, run_with_engine
from wave_serve.settings import ModelSettings, Settings
from wave_serve.settings.errors import SettingsError
from wave_serve.settings.file import load_settings

app = typer.Typer(name="wave-serve", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(keys, name="keys")
app.add_typer(config_commands, name="config")

ConfigFile = Annotated[Path | None, typer.Option("--config", help="Settings file (YAML).")]
Host = Annotated[str | None, typer.Option(help=str(Settings.model_fields["host"].description))]
Port = Annotated[int | None, typer.Option(min=1, max=65535, help=str(Settings.model_fields["port"].description))]


@app.command(epilog="Arguments after -- go to `vllm serve`.")
def serve(
    context: typer.Context,
    checkpoint: Annotated[
        Path | None, typer.Argument(help="Checkpoint directory; by default the bundled demo.")
    ] = None,
    port: Port = None,
    host: Host = None,
    max_context: Annotated[
        int | None, typer.Option(min=1, help=str(ModelSettings.model_fields["max_tokens"].description))
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the served model; by default the directory's.")] = None,
    config: ConfigFile = None,
    engine_log: Annotated[bool, typer.Option("--engine-log", help="Copy the engine's log to standard error.")] = False,
) -> None:
    """Serve a checkpoint: gateway and vLLM engine in one command."""
    configure_logging()

    def read() -> Settings:
        settings = _with_address(_load(config), host, port)
        engine = settings.engine
        engine = engine.model_copy(
            update={"args": (*engine.args, *(context.obj or ())), "show_log": engine.show_log or engine_log}
        )
        return settings.model_copy(update={"engine": engine})

    run_with_engine(SettingsSource(read, config), checkpoint, name, max_context, _announce)


@app.command()
def gateway(
    config: Annotated[Path, typer.Option("--config", help="Settings file (YAML) with the upstreams.")],
    port: Port = None,
    host: Host = None,
) -> None:
    """Serve upstreams that run already."""
    configure_logging()

    def read() -> Settings:
        settings = _with_address(_load(config), host, port)
        if not settings.upstreams:
            raise SettingsError(f"{config}: upstreams is required for `wave-serve gateway`")
        return settings

    run_gateway(SettingsSource(read, config), typer.echo)


def main() -> NoReturn:
    """Runs the command line; a failure that we can explain is one message on standard error and status 1."""
    own, engine_args = _split(sys.argv[1:])
    try:
        _add_commands(own)
        _add_eval(own)
        app(args=own, obj=engine_args, prog_name="wave-serve")
    except ExplainedError as error:
        typer.echo(f"wave-serve: {error}", err=True)
        sys.exit(1)
    sys.exit(0)


def _load(config: Path | None) -> Settings:
    return Settings() if config is None else load_settings(config)


def _with_address(settings: Settings, host: str | None, port: int | None) -> Settings:
    given = {"host": host, "port": port}
    return settings.model_copy(update={key: value for key, value in given.items() if value is not None})


def _announce(url: str, model: str, page: bool) -> None:
    """Says on standard output that the model is served, and how to try it; `page`: whether by a page, too."""
    body = json.dumps({"model": model, "prompt": "def fibonacci(n):", "max_tokens": 48, "temperature": 0})
    typer.echo(f"\n{model} is served at {url}/v1. Try:\n")
    typer.echo(f"  curl {url}/v1/completions -H 'Content-Type: application/json' -d '{body}'\n")
    if page:
        typer.echo(f"or open {url}/ in a browser.\n")


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Our arguments and, for `serve`, those after the first `--`."""
    if arguments[:1] == ["serve"] and "--" in arguments:
        cut = arguments.index("--")
        return arguments[:cut], arguments[cut + 1 :]
    return arguments, []


def _add_commands(arguments: list[str]) -> None:
    """Adds the commands of other packages; only the one that is called is imported."""
    for name, entry in added_commands().items():
        if arguments[:1] == [name]:
            app.command(name)(load_command(entry))
        else:
            app.command(name, help=f"See `wave-serve {name} --help`.")(lambda: None)


def _add_eval(arguments: list[str]) -> None:
    """Adds the group `eval`; its modules are imported only where it is called."""
    if arguments[:1] == ["eval"]:
        from wave_serve.eval.cli import app as evaluations

        app.add_typer(evaluations)
    else:
        app.command("eval", help="Measure loss or retrieval by length; see `wave-serve eval --help`.")(lambda: None)
