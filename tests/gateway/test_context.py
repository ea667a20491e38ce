"""The cap: effective limit, decision and receipt."""

import pytest

from wave_serve.context import Cap, decide, effective_limit
from wave_serve.errors import ApiError
from wave_serve.settings import ModelSettings

CAP = Cap(limit=1000, train_length=128, default_completion=50, clamp=False)


@pytest.mark.parametrize(
    ("model", "engine", "expected"),
    [
        ({"max_tokens": 900, "train_length": 100, "max_extrapolation": 8}, 1000, 800),
        ({"max_tokens": 700, "train_length": 100, "max_extrapolation": 8}, 1000, 700),
        ({"max_tokens": 900, "train_length": 100, "max_extrapolation": 8}, 600, 600),
        ({"train_length": 3, "max_extrapolation": 2.5}, None, 7),
        ({"max_extrapolation": 2}, 600, 600),
        ({}, None, None),
        ({"train_length": 512}, 65_536, 40_960),
    ],
)
def test_the_effective_limit_is_the_least(model: dict, engine: int | None, expected: int | None) -> None:
    assert effective_limit(ModelSettings(**model), engine) == expected


@pytest.mark.parametrize(
    ("prompt", "requested", "granted"), [(990, 10, 10), (999, 1, 1), (7, None, 50), (970, None, 30), (999, 0, 0)]
)
def test_what_fits_is_granted(prompt: int, requested: int | None, granted: int) -> None:
    receipt = decide(prompt, requested, CAP, "prompt")
    assert (receipt.completion_tokens, receipt.clamped_from) == (granted, None)


@pytest.mark.parametrize(
    ("prompt", "requested", "asked"),
    [(990, 11, 1001), (1000, None, 1001), (1000, 1, 1001), (1234, 0, 1234), (5000, 100, 5100)],
)
def test_what_does_not_fit_is_refused_in_openais_words(prompt: int, requested: int | None, asked: int) -> None:
    with pytest.raises(ApiError) as caught:
        decide(prompt, requested, CAP, "messages")
    error = caught.value.body()["error"]
    assert error["message"].startswith(
        f"This model's maximum context length is 1000 tokens. However, you requested {asked} tokens "
        f"({prompt} in the prompt, {asked - prompt} for the completion)."
    )
    assert error["type"] == "invalid_request_error"
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == "messages"
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (prompt, 1000)


def test_clamping_is_said_in_the_receipt() -> None:
    cap = Cap(limit=1000, train_length=128, default_completion=50, clamp=True)
    receipt = decide(900, 300, cap, "prompt")
    assert receipt.completion_tokens == 100
    assert receipt.headers()["x-wave-clamped-max-tokens"] == "100"
    with pytest.raises(ApiError):
        decide(1000, 300, cap, "prompt")


def test_the_receipt_as_headers() -> None:
    assert decide(320, 10, CAP, "prompt").headers() == {
        "x-wave-context-tokens": "320",
        "x-wave-context-limit": "1000",
        "x-wave-train-length": "128",
        "x-wave-extrapolation-factor": "2.500",
    }
