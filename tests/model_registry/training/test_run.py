"""A run learns, exports a model that loads, and continues after an interruption as if there had been none."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from helpers.tiny_run import losses, tiny_train, write_corpus
from transformers import AutoModelForCausalLM, AutoTokenizer

from model_registry.training import loop
from model_registry.training.checkpoint import CheckpointFile
from model_registry.training.cli import train
from model_registry.training.run_directory import RunDirectory


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("data") / "corpus")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, corpus):
    out = tmp_path_factory.mktemp("runs") / "whole"
    tiny_train(out, corpus, steps=28)
    return out


def test_the_loss_falls_well_below_a_uniform_guess(finished):
    log = losses(finished)
    assert [step for step, _, _ in log] == [4, 8, 12, 16, 20, 24, 28]
    assert log[0][2] < 1.05 * math.log(512)
    assert log[-1][2] < 0.75 * log[0][2]
    assert log[-1][1] < 0.75 * log[0][1]


def test_an_interrupted_run_gives_the_losses_of_an_uninterrupted_one(finished, corpus, tmp_path, monkeypatch):
    saves = 0
    save = CheckpointFile.save

    def save_then_die(self, *state):
        nonlocal saves
        save(self, *state)
        saves += 1
        if saves == 10:
            raise KeyboardInterrupt

    monkeypatch.setattr(CheckpointFile, "save", save_then_die)
    # A checkpoint after every step; the tenth step lies between two lines of the log.
    with pytest.raises(KeyboardInterrupt):
        tiny_train(tmp_path / "cut", corpus, steps=28, checkpoint_minutes="0")
    monkeypatch.undo()
    assert [step for step, _, _ in losses(tmp_path / "cut")] == [4, 8]
    tiny_train(tmp_path / "cut", corpus, steps=28, resume=True, checkpoint_minutes="0")
    for resumed, whole in zip(losses(tmp_path / "cut"), losses(finished), strict=True):
        assert resumed == pytest.approx(whole, rel=1e-6)


def test_log_lines_after_the_checkpoint_are_not_kept_twice(finished, corpus, tmp_path, monkeypatch):
    out = tmp_path / "run"
    tiny_train(out, corpus, steps=6)
    RunDirectory(out).append({"step": 8, "loss": 0.0, "held_out_loss": 0.0})
    tiny_train(out, corpus, steps=12, resume=True)
    assert [step for step, _, _ in losses(out)] == [4, 6, 8, 12]
    assert all(loss > 0 for _, loss, _ in losses(out))


@pytest.mark.parametrize(("module", "saver"), [(torch, "save"), (loop, "export")], ids=["checkpoint", "model"])
def test_a_kill_while_saving_leaves_the_checkpoint_before(corpus, tmp_path, monkeypatch, module, saver):
    out = tmp_path / "run"
    tiny_train(out, corpus, steps=4)
    before = (out / "checkpoint.pt").read_bytes()

    def die_half_way(*given):
        if saver == "save":
            given[1].write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(module, saver, die_half_way)
    with pytest.raises(KeyboardInterrupt):
        tiny_train(out, corpus, steps=8, resume=True)
    assert (out / "checkpoint.pt").read_bytes() == before
    monkeypatch.undo()
    tiny_train(out, corpus, steps=8, resume=True)
    assert losses(out)[-1][0] == 8


def test_the_export_loads_and_completes_text(finished):
    path = finished / "model"
    model = AutoModelForCausalLM.from_pretrained(path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    assert model.dtype == torch.bfloat16
    assert model.config.train_length == 48
    assert model.config.logit_scaling == "log_n"
    prompt = tokenizer("def f7(x):\n", return_tensors="pt")
    new = model.generate(prompt.input_ids, attention_mask=prompt.attention_mask, max_new_tokens=5, do_sample=False)
    assert tokenizer.decode(new[0]).startswith("def f7(x):\n")


def test_the_export_is_complete_and_readable_by_other_users(finished):
    path = finished / "model"
    assert sorted(file.name for file in path.iterdir()) == [
        "README.md",
        "config.json",
        "generation_config.json",
        "loss_curve.json",
        "loss_curve.png",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert all(file.stat().st_mode & 0o044 == 0o044 for file in path.iterdir())
    assert json.loads((path / "loss_curve.json").read_text()) == RunDirectory(finished).log()
    card = (path / "README.md").read_text()
    assert "# whole\n" in card
    assert "8 files for training and\n  2 held out" in card


def test_the_card_says_no_more_of_texts_that_the_user_chose_than_is_known(finished):
    card = (finished / "model" / "README.md").read_text()
    assert "license: other\n" in card
    assert "files `*.py` of the directory in the command above" in card
    assert "standard library" not in card
    assert "Python Software Foundation" not in card


def test_every_position_encoding_trains(corpus, tmp_path):
    for position in ("rope", "alibi", "nope"):
        tiny_train(tmp_path / position, corpus, steps=12, position=position)
        log = losses(tmp_path / position)
        assert log[-1][2] < log[0][2]
        assert AutoModelForCausalLM.from_pretrained(tmp_path / position / "model").config.position_type == position


def test_the_switches_of_a_longer_reach_train_resume_and_are_told_of(finished, corpus, tmp_path):
    switches = {"logit_scaling_length": "12", "row_divisors": "1,2,4", "decay_fraction": "0"}
    tiny_train(tmp_path / "whole", corpus, steps=12, **switches)
    tiny_train(tmp_path / "cut", corpus, steps=8, **switches)
    tiny_train(tmp_path / "cut", corpus, steps=12, resume=True, **switches)
    assert losses(tmp_path / "whole")[-1][2] < losses(tmp_path / "whole")[0][2]
    for resumed, whole in zip(losses(tmp_path / "cut"), losses(tmp_path / "whole"), strict=True):
        assert resumed == pytest.approx(whole, rel=1e-6)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "whole" / "model")
    assert model.config.log_n_length == 12
    card = (tmp_path / "whole" / "model" / "README.md").read_text()
    assert "logit scaling `log_n` from 12 tokens on, trained at 48 tokens" in card
    assert "; each step's rows cut into one number of equal parts, drawn from 1, 2, 4) in" in card
    plain = (finished / "model" / "README.md").read_text()
    assert "logit scaling `log_n`, trained at" in plain
    assert "equal parts" not in plain


def test_a_run_from_before_a_switch_existed_resumes_without_it(corpus, tmp_path):
    out = tmp_path / "run"
    tiny_train(out, corpus, steps=4)
    recipe = json.loads((out / "recipe.json").read_text())
    del recipe["row_divisors"], recipe["logit_scaling_length"]
    (out / "recipe.json").write_text(json.dumps(recipe))
    tiny_train(out, corpus, steps=8, resume=True)
    assert losses(out)[-1][0] == 8


def test_another_seed_gives_other_weights_and_keeps_the_held_out_files(corpus, tmp_path):
    changes = {"zero": {}, "one": {"seed": "1"}, "split": {"split_seed": "1"}}
    for name, change in changes.items():
        tiny_train(tmp_path / name, corpus, steps=4, **change)
    cards = [(tmp_path / name / "model" / "README.md").read_text() for name in changes]
    zero, one, split = (card.split("## Held-out files")[1] for card in cards)
    assert zero == one != split
    assert losses(tmp_path / "zero") != losses(tmp_path / "one")


def test_muon_updates_the_layers_matrices_and_resumes(corpus, tmp_path):
    tiny_train(tmp_path / "whole", corpus, steps=8, optimizer="muon")
    tiny_train(tmp_path / "cut", corpus, steps=4, optimizer="muon", decay_fraction="0")
    tiny_train(tmp_path / "adamw", corpus, steps=8)
    states = torch.load(tmp_path / "whole" / "checkpoint.pt", weights_only=True)["optimizer"]
    momenta = [state["momentum_buffer"].shape for state in states[1]["state"].values()]
    assert len(momenta) == 2 * 7
    assert (48, 80) in momenta
    assert losses(tmp_path / "whole")[-1][2] < losses(tmp_path / "whole")[0][2]
    assert losses(tmp_path / "whole")[-1] != losses(tmp_path / "adamw")[-1]
    tiny_train(tmp_path / "cut", corpus, steps=8, resume=True, optimizer="muon", decay_fraction="0")
    tiny_train(tmp_path / "uncut", corpus, steps=8, optimizer="muon", decay_fraction="0")
    assert losses(tmp_path / "cut")[-1] == pytest.approx(losses(tmp_path / "uncut")[-1], rel=1e-6)


def test_the_module_runs_as_a_command_and_refuses_in_one_line(tmp_path):
    command = [sys.executable, "-m", "model_registry.training", "--out", str(tmp_path / "x"), "--steps", "1"]
    done = subprocess.run([*command, "--corpus", str(tmp_path / "absent")], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"train: corpus directory '{tmp_path / 'absent'}' does not exist\n"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"text": [Path("a.txt")]}, "--text needs --from"),
        ({"pattern": "*.txt"}, "--pattern needs --corpus"),
        ({"source": Path("a"), "corpus": Path("b")}, "--corpus does not go with --from"),
        ({"source": Path("a"), "pattern": "*.txt"}, "--pattern does not go with --from"),
        ({"source": Path("a"), "position": "rope"}, "--position does not go with --from"),
    ],
)
def test_an_option_that_would_not_be_looked_at_is_refused(tmp_path, capsys, given, said):
    with pytest.raises(typer.Exit) as refused:
        train(out=tmp_path / "run", steps=1, **given)
    assert refused.value.exit_code == 2
    assert capsys.readouterr().err == f"train: {said}\n"
    assert not (tmp_path / "run").exists()
