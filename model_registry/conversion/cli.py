"""``wave-serve convert``: the command's arguments, and the one place where its errors become a line for the user."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

# Nothing heavy above: the gateway's command line imports this file to show the command's help.


def convert(
    source: Annotated[Path, typer.Argument(help="Hugging Face directory of a llama, mistral or qwen2 model.")],
    target: Annotated[Path, typer.Argument(help="Directory of the wavelet_llama checkpoint; must not exist.")],
    position: Annotated[str, typer.Option(help="Position encoding of the result: wavelet or nope.")] = "wavelet",
    wavelet: Annotated[
        str, typer.Option(help="ricker, gaussian, morlet, haar or pywt:NAME; with --position wavelet.")
    ] = "ricker",
    scale_exponents: Annotated[
        str | None,
        typer.Option(help="Exponents of the scales, with commas.", show_default="0,1,2,3,4,5,6,7"),
    ] = None,
    shifts: Annotated[
        str | None,
        typer.Option(help="Shifts in tokens, with commas.", show_default="0,1,2 ... as the head size needs"),
    ] = None,
    train_length: Annotated[
        int | None,
        typer.Option(min=2, help="Training length in tokens.", show_default="the source's, before rope scaling"),
    ] = None,
    logit_scaling: Annotated[
        str, typer.Option(help="Scaling of the logits past --train-length: log_n or none.")
    ] = "log_n",
    near_bias_slope: Annotated[
        float, typer.Option(min=0, help="Bonus of near keys past --train-length; 0.2 is a good one, 0 is none.")
    ] = 0.0,
    near_bias_keys: Annotated[
        int | None, typer.Option(min=1, help="How many keys are near.", show_default="1.5 x --train-length")
    ] = None,
) -> None:
    """Make a wavelet checkpoint out of a Llama-shaped one; recalibrate it with `train --from` afterwards."""
    try:
        from safetensors import SafetensorError

        from model_registry.conversion.convert import convert as make
        from model_registry.conversion.errors import ConversionError
        from model_registry.conversion.target_config import Options
    except ModuleNotFoundError as error:
        typer.echo(f"convert: {error.name} is not installed: pip install 'wave-serve[train]'", err=True)
        raise typer.Exit(2) from error
    try:
        options = Options(
            position=position,
            wavelet=wavelet,
            scale_exponents=_numbers("--scale-exponents", scale_exponents),
            shifts=_numbers("--shifts", shifts),
            train_length=train_length,
            logit_scaling=logit_scaling,
            near_bias_slope=near_bias_slope,
            near_bias_keys=near_bias_keys,
        )
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        done = make(source, target, options, command)
    except (ConversionError, OSError, SafetensorError) as error:  # a full disk is one of the last two
        typer.echo(f"convert: {error}", err=True)
        raise typer.Exit(2) from error
    for what in done.dropped:
        typer.echo(f"dropped {what}")
    how = "linked" if done.linked == done.files else "copied" if not done.linked else f"{done.linked} linked"
    recalibrate = shlex.join(["wave-serve", "train", "--from", str(target), "--teacher", str(source)])
    typer.echo(
        f"{target}: {done.config.position_type} positions, trained at {done.config.train_length} tokens, "
        f"{done.files} weight files {how}. Recalibrate it: {recalibrate} --out ... --text ..."
    )


def _numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    from model_registry.conversion.errors import ConversionError

    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConversionError(f"{option} {text!r}: must be whole numbers separated by commas") from error
