"""The cap: effective limit, decision, budget and receipt."""

import pytest

from wave_serve.context.cap import Cap, bounds, decide, truncation_budget
from wave_serve.context.catalogue import ServedModel
from wave_serve.context.zones import zones_of
from wave_serve.errors import ApiError
from wave_serve.settings import ModelSettings, Overflow

HEAD = Overflow.TRUNCATE_HEAD


def cap_of(limit: int = 1000, **policy: object) -> Cap:
    settings = ModelSettings.model_validate({"train_length": 128, "default_max_completion_tokens": 50} | policy)
    return Cap(limit, settings, zones_of(settings.train_length, settings.validated_length, settings.zones))


@pytest.mark.parametrize(
    ("model", "engine", "cache", "expected"),
    [
        ({"max_tokens": 900, "train_length": 100, "max_extrapolation": 8}, 1000, None, 800),
        ({"max_tokens": 700, "train_length": 100, "max_extrapolation": 8}, 1000, None, 700),
        ({"max_tokens": 900, "train_length": 100, "max_extrapolation": 8}, 600, None, 600),
        ({"max_tokens": 900, "train_length": 100, "max_extrapolation": 8}, 1000, 511, 511),
        ({"train_length": 3, "max_extrapolation": 2.5}, None, None, 7),
        ({"max_extrapolation": 2}, 600, None, 600),
        ({}, None, None, None),
        ({"train_length": 512}, 65_536, None, 40_960),
        ({"train_length": 512, "validated_length": 2048, "zones": {"hard": "reject"}}, 65_536, None, 2048),
        ({"train_length": 512, "validated_length": 2048, "zones": {"validated": "reject"}}, 65_536, None, 512),
        ({"train_length": 512, "zones": {"hard": "reject"}}, 65_536, None, 512),
    ],
)
def test_the_effective_limit_is_the_least(
    model: dict, engine: int | None, cache: int | None, expected: int | None
) -> None:
    settings = ModelSettings.model_validate(model)
    zones = zones_of(settings.train_length, settings.validated_length, settings.zones)
    assert min(bounds(settings, zones, engine, cache).values(), default=None) == expected


@pytest.mark.parametrize(
    ("prompt", "requested", "granted"), [(990, 10, 10), (999, 1, 1), (7, None, 50), (970, None, 30), (999, 0, 0)]
)
def test_what_fits_is_granted(prompt: int, requested: int | None, granted: int) -> None:
    receipt = decide(prompt, requested, cap_of(), "prompt")
    assert (receipt.completion_tokens, receipt.clamped_from) == (granted, None)


@pytest.mark.parametrize(
    ("prompt", "requested", "asked"),
    [(990, 11, 1001), (1000, None, 1001), (1000, 1, 1001), (1234, 0, 1234), (5000, 100, 5100)],
)
def test_what_does_not_fit_is_refused_in_openais_words(prompt: int, requested: int | None, asked: int) -> None:
    with pytest.raises(ApiError) as caught:
        decide(prompt, requested, cap_of(), "prompt")
    error = caught.value.body()["error"]
    assert error["message"].startswith(
        f"This model's maximum context length is 1000 tokens. However, you requested {asked} tokens "
        f"({prompt} in the prompt, "
    )
    assert error["type"] == "invalid_request_error"
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == "prompt"
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (prompt, 1000)


def test_clamping_is_on_request_and_said() -> None:
    receipt = decide(990, 11, cap_of(clamp_max_tokens=True), "prompt")
    assert (receipt.completion_tokens, receipt.clamped_from) == (10, 11)
    assert receipt.headers()["x-wave-clamped-max-tokens"] == "10"


def test_the_receipt_says_how_far_the_prompt_extrapolates() -> None:
    assert decide(192, None, cap_of(zones={"hard": "allow"}), "prompt").headers() == {
        "x-wave-context-tokens": "192",
        "x-wave-context-limit": "1000",
        "x-wave-train-length": "128",
        "x-wave-extrapolation-factor": "1.500",
        "x-wave-zone": "hard",
    }


def test_without_a_train_length_nothing_is_said_of_extrapolation() -> None:
    headers = decide(5, 5, cap_of(train_length=None), "prompt").headers()
    assert headers == {"x-wave-context-tokens": "5", "x-wave-context-limit": "1000"}


@pytest.mark.parametrize(
    ("prompt", "requested", "budget"),
    [
        (999, None, None),  # fits, with the completion that is left
        (1000, None, 950),  # room for the default completion
        (1000, 200, 800),
        (900, 200, 800),
        (900, 0, None),
        (1000, 0, 999),  # an engine generates at least one token
        (5000, 999, 1),
        (5000, 1000, 0),  # no room for a prompt
        (5000, 7000, 0),
        (8000, 1, 999),
        (8001, 1, None),  # too long to be truncated
    ],
)
def test_a_prompt_is_cut_to_what_the_completion_leaves(prompt: int, requested: int | None, budget: int | None) -> None:
    assert truncation_budget(prompt, requested, cap_of(), HEAD) == budget
    assert truncation_budget(prompt, requested, cap_of(), Overflow.REJECT) is None


def test_clamping_goes_before_truncating() -> None:
    cap = cap_of(clamp_max_tokens=True)
    assert truncation_budget(900, 200, cap, HEAD) is None
    assert truncation_budget(1000, 200, cap, HEAD) == 800
    assert truncation_budget(1000, 2000, cap, HEAD) == 950


@pytest.mark.parametrize(
    ("prompt", "requested", "least", "granted"),
    [
        (100, None, 0, 50),  # the default
        (100, None, 40, 50),
        (100, None, 300, 300),
        (100, None, 900, 900),
        (100, None, 901, None),  # more than is left
        (1000, None, 1, None),
        (100, 20, 300, 20),  # both are the client's: the engine judges
        (100, 950, 300, None),
    ],
)
def test_a_completion_that_the_gateway_chooses_is_not_below_min_tokens(
    prompt: int, requested: int | None, least: int, granted: int | None
) -> None:
    if granted is not None:
        assert decide(prompt, requested, cap_of(), "prompt", least).completion_tokens == granted
        return
    with pytest.raises(ApiError) as caught:
        decide(prompt, requested, cap_of(), "prompt", least)
    assert caught.value.code == "context_length_exceeded"
    assert f"{least if requested is None else requested} for the completion" in caught.value.message


def test_a_completion_is_not_clamped_below_min_tokens() -> None:
    cap = cap_of(clamp_max_tokens=True)
    assert decide(900, 500, cap, "prompt", 100).completion_tokens == 100
    with pytest.raises(ApiError) as caught:
        decide(900, 500, cap, "prompt", 101)
    assert "500 for the completion" in caught.value.message


@pytest.mark.parametrize(
    ("prompt", "requested", "least", "clamp", "budget"),
    [
        (1000, None, 10, False, 950),
        (1000, None, 200, False, 800),
        (900, None, 200, False, 800),
        (900, None, 100, False, None),
        (1000, None, 5000, False, 0),
        (900, 2000, 200, True, 800),
        (900, 200, 300, False, 800),
    ],
)
def test_a_truncated_prompt_leaves_room_for_min_tokens(
    prompt: int, requested: int | None, least: int, clamp: bool, budget: int | None
) -> None:
    assert truncation_budget(prompt, requested, cap_of(clamp_max_tokens=clamp), HEAD, least) == budget


def test_the_default_completion_takes_at_most_half_of_a_small_cap() -> None:
    assert truncation_budget(100, None, cap_of(60), HEAD) == 30


@pytest.mark.parametrize(("key_limit", "limit"), [(None, 100), (50, 50), (100, 100), (5000, 100)])
def test_a_key_lowers_a_models_cap_and_never_raises_it(key_limit: int | None, limit: int) -> None:
    model = ServedModel("m", ModelSettings(max_tokens=100), [], 5)
    assert model.cap(key_limit).limit == limit
    assert model.card(key_limit)["max_model_len"] == limit
    assert model.card(key_limit)["limits"] == {"max_tokens": 100} | ({"key": key_limit} if key_limit else {})


def test_a_cap_that_nobody_knows_yet_is_a_503() -> None:
    with pytest.raises(ApiError) as caught:
        ServedModel("m", ModelSettings(), [], 7).cap()
    assert (caught.value.status, caught.value.headers["retry-after"]) == (503, "7")
