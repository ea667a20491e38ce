"""Zones of trust: where they end, what they do, and how an evaluation moves them."""

import json
from pathlib import Path

import pytest
from helpers.fake_upstream import FakeUpstream
from helpers.running import running, settings_for

from wave_serve.context.zones import zones_of
from wave_serve.engine.checkpoint import Checkpoint, CheckpointError
from wave_serve.engine.evaluation import validated_length
from wave_serve.engine.policy import served_models
from wave_serve.settings import Settings, ZoneSettings

# Nats per token by length: better up to 2,048, within 2 % at 4,096, not at 8,192.
LOSSES = {256: 2.9, 512: 2.8, 1024: 2.7, 2048: 2.5, 4096: 2.54, 8192: 2.56, 16384: 2.4}


@pytest.mark.parametrize(
    ("length", "zone"),
    [(1, "trained"), (512, "trained"), (513, "validated"), (2048, "validated"), (2049, "hard"), (10**6, "hard")],
)
def test_a_zone_begins_where_the_one_before_it_ends(length: int, zone: str) -> None:
    assert zones_of(512, 2048, ZoneSettings()).of(length) == zone


def test_what_nobody_measured_is_not_validated() -> None:
    assert zones_of(512, None, ZoneSettings()).of(513) == "hard"
    assert zones_of(512, 100, ZoneSettings()).of(513) == "hard"
    assert zones_of(512, 100, ZoneSettings()).of(512) == "trained"
    assert zones_of(None, 2048, ZoneSettings()) is None


@pytest.mark.parametrize(
    ("prompt", "zone", "warning"),
    [
        (70, "trained", None),
        (71, "validated", "the context may reach 101 tokens, beyond the training length of 100"),
        (371, "hard", "the context may reach 401 tokens, beyond the 400 at which the model was shown to be good"),
    ],
)
def test_the_answer_names_the_zone_that_prompt_and_completion_reach(
    upstream: FakeUpstream, prompt: int, zone: str, warning: str | None
) -> None:
    model = {"validated_length": 400, "zones": {"validated": "warn"}}
    with running(settings_for(upstream, model=model)) as one:
        answer = one.post({"prompt": [7] * prompt, "max_tokens": 30})
    assert answer.status_code == 200
    assert answer.headers["x-wave-zone"] == zone
    assert answer.headers.get("x-wave-warning") == warning


def test_a_rejected_zone_lowers_the_cap(upstream: FakeUpstream) -> None:
    model = {"validated_length": 400, "zones": {"hard": "reject"}}
    with running(settings_for(upstream, model=model)) as one:
        assert one.post({"prompt": [7] * 390, "max_tokens": 10}).status_code == 200
        answer = one.post({"prompt": [7] * 390, "max_tokens": 11})
        assert answer.json()["error"]["n_ctx"] == 400
        answer = one.post({"prompt": [7] * 500, "max_tokens": 10, "overflow": "truncate_head"})
        assert answer.headers["x-wave-kept-tokens"] == "110-500"


def test_a_rejected_zone_rejects_all_beyond_it() -> None:
    assert zones_of(512, 2048, ZoneSettings(validated="reject", hard="allow")).limit() == 512


def checkpoint_with(directory: Path, losses: dict[int, float], **changed: object) -> Checkpoint:
    rows = [
        {"endpoint": "a", "length": length, "nats_per_token": nats, "complete": True} for length, nats in losses.items()
    ]
    document = {"kind": "perplexity", "protocol": "whole", "rows": rows} | changed
    (directory / "eval.json").write_text(json.dumps(document))
    return Checkpoint(directory, "mine", 512, 65536, 100, None, {})


@pytest.mark.parametrize(
    ("losses", "tolerance", "expected"),
    [
        (LOSSES, 0.02, 4096),
        (LOSSES, 0.0, 2048),
        (LOSSES, 0.05, 16384),
        ({512: 2.8, 1024: 2.9}, 0.02, 512),
        ({1024: 2.8, 2048: 2.8}, 0.02, None),  # nothing within the training length to hold them against
        ({}, 0.02, None),
    ],
)
def test_a_length_is_good_while_the_loss_stays_near_its_best(
    tmp_path: Path, losses: dict, tolerance: float, expected: int | None
) -> None:
    assert validated_length(checkpoint_with(tmp_path, losses), 512, tolerance) == expected


def test_a_length_that_was_not_measured_to_the_end_does_not_count(tmp_path: Path) -> None:
    checkpoint = checkpoint_with(tmp_path, LOSSES)
    document = json.loads((tmp_path / "eval.json").read_text())
    document["rows"][4]["complete"] = False
    (tmp_path / "eval.json").write_text(json.dumps(document))
    assert validated_length(checkpoint, 512, 0.02) == 2048


def test_of_several_models_the_checkpoints_own_counts(tmp_path: Path) -> None:
    rows = [
        {"endpoint": name, "length": length, "nats_per_token": 2.0 + nats, "complete": True}
        for name, nats in (("mine", 0.0), ("other", 1.0))
        for length in (512, 1024, 4096 if name == "other" else 2048)
    ]
    assert validated_length(checkpoint_with(tmp_path, {}, rows=rows), 512, 0.02) == 2048
    with pytest.raises(CheckpointError, match="compares mine, other, none of which is named another"):
        validated_length(Checkpoint(tmp_path, "another", 512, 65536, 100, None, {}), 512, 0.02)


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, 4096), ({"validated_length": 600}, 600), ({"validated_tolerance": 0}, 2048), ({"train_length": 100}, None)],
)
def test_serve_takes_it_from_the_checkpoint_unless_told(tmp_path: Path, given: dict, expected: int | None) -> None:
    settings = Settings.model_validate({"models": {"mine": given}})
    models = served_models(settings, checkpoint_with(tmp_path, LOSSES), "mine", (), None)
    assert models["mine"].validated_length == expected


def test_without_an_evaluation_nothing_is_validated(tmp_path: Path) -> None:
    assert validated_length(Checkpoint(tmp_path, "mine", 512, 65536, 100, None, {}), 512, 0.02) is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"kind": "passkey"}, "needs a perplexity by whole prompts, got 'passkey'"),
        ({"protocol": "non-overlapping"}, "with protocol 'non-overlapping'"),
        ({"rows": None}, "not a result of `wave-serve eval perplexity`"),
        ({"rows": [{"endpoint": "a", "length": "x", "nats_per_token": 1, "complete": True}]}, "not a result"),
    ],
)
def test_another_file_of_that_name_is_refused(tmp_path: Path, changed: dict, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        validated_length(checkpoint_with(tmp_path, LOSSES, **changed), 512, 0.02)
