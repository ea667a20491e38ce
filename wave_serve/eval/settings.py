"""Every option of the evaluations and its default, in frozen models; the command line derives from these."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from wave_serve.settings import Frozen, root_url


class Protocol(StrEnum):
    """How a text of length L is scored."""

    WHOLE = "whole"
    NON_OVERLAPPING = "non-overlapping"


class Address(Frozen):
    """Where an endpoint is, and its name in the results."""

    name: str = Field(min_length=1)
    base_url: Annotated[str, root_url("give a key in OPENAI_API_KEY")]


class EvalSettings(Frozen):
    """What both evaluations have in common."""

    addresses: tuple[Address, ...] = Field(min_length=1)
    out: Path = Field(description="Directory for the results; made where it does not exist.")
    lengths: str = Field(
        description="Lengths: multiples of the training length (1,2,4 or 1/4 or 0.25), or tokens with a t (2048t)."
    )
    model: str | None = Field(None, description="Name of the model; needed where an endpoint serves several.")
    train_length: PositiveInt | None = Field(
        None, description="Training length in tokens, for endpoints whose /v1/models does not tell it."
    )
    resume: bool = Field(False, description="Go on in DIR: what it holds already is not asked again.")
    parallel: PositiveInt = Field(1, description="Requests under way at once.")
    timeout: PositiveFloat = Field(1800.0, description="Longest wait for one answer, in seconds.")
    plot: bool = Field(True, description="Draw the plot; needs matplotlib.")
    seed: NonNegativeInt = Field(0, description="Seed of everything that is drawn at random.")


class PerplexitySettings(EvalSettings):
    """`wave-serve eval perplexity`."""

    lengths: str = Field("1,2,4,8", description=EvalSettings.model_fields["lengths"].description)
    texts: tuple[Path, ...] = Field(
        (), description="UTF-8 text to score; may be repeated. By default the bundled demo's held-out files."
    )
    separator: str = Field("\n", description="Text between two files.")
    protocol: Protocol = Field(
        Protocol.WHOLE, description="Each piece of a length as one prompt, or cut into prompts of the training length."
    )
    samples: PositiveInt = Field(4, description="Most stretches of the text, each as long as the longest length.")
    end_tokens: PositiveInt | None = Field(
        None, description="Tokens at the end of a sample whose loss is told apart; by default half the shortest prompt."
    )
    block_tokens: PositiveInt = Field(512, description="Tokens per block of the block bootstrap.")
    resamples: PositiveInt = Field(2000, description="Resamples of the bootstrap.")


class PasskeySettings(EvalSettings):
    """`wave-serve eval passkey`."""

    lengths: str = Field("1,2,4,8", description=EvalSettings.model_fields["lengths"].description)
    # The numbers first: of what is neither, the command line tells why it is none of the first.
    depths: Annotated[tuple[Annotated[int, Field(ge=0, le=100)], ...], Field(min_length=1)] | Literal["uniform"] = (
        Field(
            (0, 25, 50, 75, 100),
            description="Where the key is hidden, in percent of the filler before it; `uniform` draws each anew.",
        )
    )
    trials: PositiveInt = Field(20, description="Trials per length, spread over the depths in turn.")
    text: Path | None = Field(None, description="UTF-8 text to use as filler; by default neutral sentences.")


class RulerSettings(EvalSettings):
    """`wave-serve eval ruler`."""

    lengths: str = Field("1,4,16", description=EvalSettings.model_fields["lengths"].description)
    tasks: tuple[str, ...] = Field(
        ("niah_single_1", "niah_multikey_2", "niah_multikey_3", "vt", "fwe", "cwe"),
        min_length=1,
        description="Tasks, with commas.",
    )
    trials: PositiveInt = Field(20, description="Trials per task and length.")
