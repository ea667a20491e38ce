"""What a user can get wrong is one line on stderr and exit status 2, never a traceback."""

from __future__ import annotations

import math
import sys

import pytest
import torch
import typer
from helpers.tiny_run import tiny_train, write_corpus

from model_registry.training.errors import TrainingError
from model_registry.training.loop import Budget
from model_registry.training.recipe import Recipe, with_overrides


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path / "corpus")


def refusal(capsys, *arguments, **options) -> str:
    with pytest.raises(typer.Exit) as caught:
        tiny_train(*arguments, **options)
    assert caught.value.exit_code == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("train: ")
    assert stderr.count("\n") == 1
    return stderr


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"position": "rotary"}, "position_encoding.type='rotary'"),
        ({"wavelet": "sombrero"}, "position_encoding.wavelet='sombrero'"),
        ({"head_dim": "64"}, "head_dim is 64"),
        ({"shifts": "0,1,x"}, "--set 'shifts=0,1,x'"),
        ({"learning_rate": "fast"}, "--set 'learning_rate=fast'"),
        ({"learning_rate": "-1"}, "learning_rate=-1.0"),
        ({"bf16": "maybe"}, "--set 'bf16=maybe'"),
        ({"batch_sequences": "0"}, "batch_sequences=0"),
        ({"batch_sequences": "100000"}, "too few for a batch of 100000 x 48"),
        ({"train_length": "2000", "batch_sequences": "1"}, "fewer than one sequence of 2000"),
        ({"vocab_size": "100"}, "vocab_size=100"),
        ({"logit_scaling_length": "49"}, "logit_scaling_length=49"),
        ({"logit_scaling_length": "short"}, "--set 'logit_scaling_length=short'"),
        ({"row_divisors": "1,5"}, "row_divisors=(1, 5): must divide train_length=48"),
        ({"row_divisors": "1,48"}, "row_divisors=(1, 48)"),
        ({"row_divisors": "0"}, "row_divisors=(0,)"),
        ({"hidden_size": "50"}, "hidden_size=50: must be a multiple of 3 heads"),
        ({"intermediate_size": "0"}, "intermediate_size=0: must be at least 1"),
        ({"max_position_embeddings": "0"}, "max_position_embeddings=0: must be at least 1"),
        ({"seed": "-1"}, "seed=-1: must not be negative"),
        ({"weight_decay": "-1"}, "weight_decay=-1.0: must not be negative"),
        ({"grad_clip": "0"}, "grad_clip=0.0: must be positive"),
        ({"beta1": "1"}, "beta1=1.0: must be at least 0 and below 1"),
        ({"beta2": "nan"}, "beta2=nan: must be at least 0 and below 1"),
        ({"colour": "red"}, "--set 'colour=red': no such field"),
    ],
)
def test_a_wrong_recipe_is_refused_before_anything_is_written(capsys, corpus, tmp_path, changes, named):
    assert named in refusal(capsys, tmp_path / "run", corpus, steps=1, **changes)
    assert not (tmp_path / "run").exists()


def test_a_run_needs_a_positive_budget(capsys, corpus, tmp_path):
    assert "--steps, --minutes or both" in refusal(capsys, tmp_path / "run", corpus, steps=None)
    assert "steps=-1" in refusal(capsys, tmp_path / "run", corpus, steps=-1)
    for minutes in (0.0, math.nan, math.inf):
        with pytest.raises(TrainingError, match=f"minutes={minutes}: must be positive, and have an end"):
            Budget(minutes=minutes)


def test_a_directory_in_use_needs_resume(capsys, corpus, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    assert "is not empty; pass --resume" in refusal(capsys, tmp_path / "run", corpus, steps=1)
    assert "is not empty" in refusal(capsys, corpus / "module0.py", corpus, steps=1)
    assert "Not a directory" in refusal(capsys, corpus / "module0.py/run", corpus, steps=1)


def test_a_full_disk_is_told_in_one_line(capsys, corpus, tmp_path, monkeypatch):
    def full(*_):
        raise RuntimeError("unexpected pos 188224 vs 188112")  # as PyTorch says it

    monkeypatch.setattr(torch, "save", full)
    said = refusal(capsys, tmp_path / "run", corpus, steps=1)
    assert "checkpoint.partial' could not be written; is the disk full? (unexpected pos" in said


def test_resume_needs_a_checkpoint_of_the_same_recipe_and_corpus(capsys, corpus, tmp_path):
    out = tmp_path / "run"
    said = refusal(capsys, out, corpus, steps=2, resume=True)
    assert "holds no checkpoint to resume: start anew without --resume, in a directory that is new or empty" in said
    tiny_train(out, corpus, steps=2)
    assert "num_layers is 2, not 1" in refusal(capsys, out, corpus, steps=3, resume=True, num_layers="1")
    assert "row_divisors is [1], not [1, 2]" in refusal(capsys, out, corpus, steps=3, resume=True, row_divisors="1,2")
    assert "already is at step 2" in refusal(capsys, out, corpus, steps=2, resume=True)
    (corpus / "module0.py").write_text("pass\n")
    assert "corpus_sha256" in refusal(capsys, out, corpus, steps=3, resume=True)


def test_a_corpus_without_two_files_is_refused(capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "latin.py").write_bytes(b"# \xff\n")
    assert "holds 0 usable .py files" in refusal(capsys, tmp_path / "run", tmp_path / "empty", steps=1)


def test_an_override_must_be_an_assignment():
    with pytest.raises(TrainingError, match="write FIELD=VALUE"):
        with_overrides(Recipe(), ["position"])


def test_an_installation_without_torch_is_told_what_to_install(capsys, corpus, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "model_registry.training.loop", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "torch is not installed: pip install 'wave-serve[train]'" in refusal(
        capsys, tmp_path / "run", corpus, steps=1
    )
