"""``wave-serve train --from ... --teacher ...``: what is compared and trained, and what it gains."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.refused import line_of
from helpers.small_sources import edit_json, write_source
from helpers.tiny_run import tiny_train, write_corpus
from transformers import AutoModelForCausalLM

from model_registry.conversion.convert import convert
from model_registry.conversion.target_config import Options
from model_registry.modeling_wavelet import WaveletLlamaForCausalLM
from model_registry.training.cli import train
from model_registry.training.recalibration import loop
from model_registry.training.recalibration.attention_transfer import AttentionTransfer

SHORT = {"batch_sequences": "2", "eval_every": "5", "eval_sequences": "4", "warmup_steps": "1"}
IDS = torch.randint(2, 97, (2, 70), generator=torch.Generator().manual_seed(3))


def projections(model):
    return [part for layer in model.model.layers for part in (layer.self_attn.q_proj, layer.self_attn.k_proj)]


def attention_of_each_layer(model, inputs):
    """Weights ``[B, H, L, L]`` of every layer, given its input: the model's own, with all others left out."""
    layers, found = model.model.layers, []
    for layer, hidden in zip(layers, inputs, strict=True):
        model.model.layers = torch.nn.ModuleList([layer])
        hook = layer.self_attn.register_forward_hook(lambda _module, _inputs, outputs: found.append(outputs[1]))
        model.model(inputs_embeds=hidden, use_cache=False)
        hook.remove()
    model.model.layers = layers
    return found


@pytest.mark.parametrize("position", ["wavelet", "nope"])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
@pytest.mark.parametrize("train_length", [256, 16], ids=["no_scaling", "log_n"])
def test_it_is_the_divergence_of_the_dense_models_weights(tmp_path, family, position, train_length):
    source = write_source(tmp_path / "source", family)
    exponents, shifts = ((0, 1, 2, 3), (0, 1, 2, 3)) if position == "wavelet" else (None, None)
    options = Options(position=position, scale_exponents=exponents, shifts=shifts, train_length=train_length)
    convert(source, tmp_path / "target", options, "")
    load = {"dtype": torch.float64, "attn_implementation": "eager"}
    teacher = AutoModelForCausalLM.from_pretrained(source, **load)
    model = WaveletLlamaForCausalLM.from_pretrained(tmp_path / "target", **load)
    with torch.no_grad():
        told = teacher.model(IDS, output_attentions=True, output_hidden_states=True, use_cache=False)
    chosen = torch.tensor([0, 1, 15, 16, 40, 69])
    wanted = [weights[:, :, chosen] for weights in told.attentions]
    found = [weights[:, :, chosen] for weights in attention_of_each_layer(model, told.hidden_states[:-1])]
    each = [
        torch.where(p > 0, p * (p.log() - q.clamp(min=1e-300).log()), 0).sum(-1).mean()
        for p, q in zip(wanted, found, strict=True)
    ]
    torch.autograd.backward(sum(each))
    trained = [p for part in projections(model) for p in part.parameters()]
    expected = [p.grad.clone() for p in trained]
    model.zero_grad()
    transfer = AttentionTransfer(teacher, model)
    divergence = transfer.backward(IDS, chosen)
    # As close as float32, in which Transformers takes the softmax of the source.
    torch.testing.assert_close(divergence.double(), sum(each).detach() / len(each), rtol=1e-6, atol=1e-7)
    assert [id(p) for p in transfer.parameters()] == [id(p) for p in trained]
    for parameter, gradient in zip(trained, expected, strict=True):
        assert (parameter.grad - gradient).abs().max() < 1e-6 * max(1.0, gradient.abs().max())
    assert all(p.grad is None for p in {*model.parameters()} - {*trained})


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("text") / "texts")


@pytest.fixture(scope="module")
def rope(text, tmp_path_factory):
    """A model with rope that has learned something."""
    out = tmp_path_factory.mktemp("rope") / "run"
    tiny_train(out, text, steps=120, learning_rate="4e-3", position="rope", logit_scaling="none")
    return out / "model"


@pytest.fixture(scope="module")
def converted(rope, tmp_path_factory):
    target = tmp_path_factory.mktemp("converted") / "model"
    convert(rope, target, Options(scale_exponents=(0, 1, 2, 3), shifts=tuple(range(8))), "")
    return target


def arguments(changes):
    return [f"{name}={value}" for name, value in (SHORT | {"transfer_queries": "16"} | changes).items()]


def transferred(source, teacher, text, out, *, steps=20, resume=False, **changes):
    train(
        out=out, source=source, teacher=teacher, text=[text], steps=steps, resume=resume, measure=False,
        overrides=arguments(changes),
    )  # fmt: skip


def log(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def weights(path):
    return WaveletLlamaForCausalLM.from_pretrained(path, dtype=torch.float32).state_dict()


def test_queries_and_keys_alone_are_trained_and_the_loss_comes_back(rope, converted, text, tmp_path):
    out = tmp_path / "run"
    transferred(converted, rope, text, out, steps=40, transfer_fraction="1", transfer_queries="0", eval_every="10")
    entries = log(out)
    assert all("loss" not in entry for entry in entries)
    assert entries[-1]["divergence"] < 0.5 * entries[0]["divergence"]
    before, after = weights(converted), weights(out / "model")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if ".q_proj." in name or ".k_proj." in name}
    # The loss that the conversion cost: most of it has come back, without a step on the loss itself.
    train(out=tmp_path / "as_converted", source=converted, text=[text], steps=1, measure=False,
          overrides=arguments({"learning_rate": "1e-9"}))  # fmt: skip
    train(out=tmp_path / "source", source=rope, text=[text], steps=1, measure=False,
          overrides=arguments({"learning_rate": "1e-9"}))  # fmt: skip
    lost, least = (log(tmp_path / name)[-1]["held_out_loss"] for name in ("as_converted", "source"))
    assert entries[-1]["held_out_loss"] - least < 0.25 * (lost - least)
    card = (out / "model/README.md").read_text()
    assert "The first 40 steps trained the query and key projections alone" in card


def test_the_teachers_predictions_are_the_aim_after_it(rope, converted, text, tmp_path, monkeypatch):
    # With all of the loss from the teacher, the text's own tokens no longer matter.
    seen = []
    plain = loop.Recalibrating._objective

    def objective(self, model, rows):
        found = plain(self, model, rows)
        other = rows.clone()
        other[:, -1] = 3  # the last target, which is no input
        seen.append([part.item() for part in (found[0], plain(self, model, other)[0], found[1])])
        return found

    monkeypatch.setattr(loop.Recalibrating, "_objective", objective)
    transferred(converted, rope, text, tmp_path / "run", steps=10, transfer_fraction="0.5", distillation="1")
    assert len(seen) == 5
    assert all(one == other != loss for one, other, loss in seen)
    assert seen[-1][0] < seen[0][0]
    entries = log(tmp_path / "run")
    assert ["divergence" in entry for entry in entries] == [True, False]
    assert entries[-1]["loss"] == pytest.approx(sum(loss for _, _, loss in seen) / 5)


def test_a_resumed_run_is_the_uninterrupted_one(rope, converted, text, tmp_path):
    transferred(converted, rope, text, tmp_path / "whole", steps=12, eval_every="3", transfer_fraction="0.5")
    for stop in (4, 8):  # in the transfer, and after it
        out = tmp_path / f"cut{stop}"
        plain = loop.Recalibrating._save

        def save_and_die(self, model, at, command, stop=stop, plain=plain):
            plain(self, model, at, command)
            if at.step == stop:
                raise KeyboardInterrupt

        same = {"eval_every": "3", "transfer_fraction": "0.5", "checkpoint_minutes": "0"}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop.Recalibrating, "_save", save_and_die)
            with pytest.raises(KeyboardInterrupt):
                transferred(converted, rope, text, out, steps=12, **same)
        transferred(converted, rope, text, out, steps=12, resume=True, **same)
        for whole, resumed in zip(log(tmp_path / "whole"), log(out), strict=True):
            assert whole.keys() == resumed.keys()
            for name in whole.keys() - {"seconds"}:
                assert resumed[name] == pytest.approx(whole[name], rel=1e-5)


def test_a_larger_budget_does_not_go_back_to_the_transfer(rope, converted, text, tmp_path):
    out = tmp_path / "run"
    transferred(converted, rope, text, out, steps=6, eval_every="3", transfer_fraction="0.5")
    transferred(converted, rope, text, out, steps=20, eval_every="3", transfer_fraction="0.5", resume=True)
    assert ["divergence" in entry for entry in log(out)] == [True] + [False] * 6
    assert "The first 3 steps trained the query and key" in (out / "model/README.md").read_text()


def test_two_processes_transfer_as_one_with_twice_the_rows(rope, converted, text, tmp_path):
    exact = {"bf16": "false", "transfer_fraction": "0.5"}
    transferred(converted, rope, text, tmp_path / "one", steps=6, batch_sequences="4", **exact)
    transferred(converted, rope, text, tmp_path / "parts", steps=6, accumulate="2", **exact)
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command = [sys.executable, *launch, "-m", "model_registry.training", "--out", str(tmp_path / "two")]
    command += ["--from", str(converted), "--teacher", str(rope), "--text", str(text), "--steps", "6", "--no-measure"]
    command += [part for change in arguments(exact) for part in ("--set", change)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    for other in ("two", "parts"):
        for one, two in zip(log(tmp_path / "one"), log(tmp_path / other), strict=True):
            for name in one.keys() - {"seconds"}:
                assert two[name] == pytest.approx(one[name], rel=1e-4), name


def test_adapters_are_what_is_transferred_to(rope, converted, text, tmp_path):
    pytest.importorskip("peft")
    out = tmp_path / "run"
    transferred(converted, rope, text, out, lora_rank="4", transfer_fraction="1", transfer_learning_rate="2e-2")
    assert log(out)[-1]["divergence"] < log(out)[0]["divergence"]
    before, after = weights(converted), weights(out / "model")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if ".q_proj." in name or ".k_proj." in name}


def refused(capsys, *positional, **changes):
    return line_of(capsys, lambda: transferred(*positional, **changes))


@pytest.mark.parametrize("position", ["rope", "alibi"])
def test_positions_that_are_not_compared_are_refused_unless_there_is_no_transfer(
    rope, text, tmp_path, capsys, position
):
    student, out = tmp_path / "student", tmp_path / "run"
    shutil.copytree(rope, student)
    edit_json(student / "config.json", position_encoding={"type": position})
    said = refused(capsys, student, rope, text, out)
    assert f"the positions of --from are {position!r}, and attention transfer is for wavelet and nope" in said
    assert not out.exists()
    transferred(student, rope, text, out, steps=2, transfer_fraction="0")
    assert "loss" in log(out)[-1]


def test_what_cannot_be_a_teacher_is_refused_in_one_line(rope, converted, text, tmp_path, capsys):
    out = tmp_path / "run"
    assert "it has no config.json" in refused(capsys, converted, tmp_path, text, out)
    assert "its positions are 'wavelet'; give the checkpoint before" in refused(capsys, converted, converted, text, out)
    gemma = tmp_path / "gemma"
    gemma.mkdir()
    (gemma / "config.json").write_text('{"model_type": "gemma"}')
    assert "model_type='gemma' is none of llama, mistral, qwen2" in refused(capsys, converted, gemma, text, out)
    other = tmp_path / "other"
    other.mkdir()
    for file in Path(rope).iterdir():
        (other / file.name).symlink_to(file)
    config = (other / "config.json").read_text()
    (other / "config.json").unlink()
    (other / "config.json").write_text(config)
    edit_json(other / "config.json", num_key_value_heads=3)
    said = refused(capsys, converted, other, text, out)
    assert "its num_key_value_heads is 3, the checkpoint's is 1" in said
    (other / "model.safetensors").unlink()
    edit_json(other / "config.json", num_key_value_heads=1)
    assert f"--teacher {str(other)!r} cannot be read: Error no file" in refused(capsys, converted, other, text, out)
    (other / "config.json").write_text("{")
    assert f"--teacher {str(other)!r} cannot be read: " in refused(capsys, converted, other, text, out)
    for changes in ({"transfer_fraction": "1.5"}, {"distillation": "-0.1"}):
        assert "must lie in [0, 1]" in refused(capsys, converted, rope, text, out, **changes)
    assert "transfer_queries=-1: must not be negative" in refused(
        capsys, converted, rope, text, out, transfer_queries="-1"
    )
    assert not out.exists()
    with pytest.raises((SystemExit, Exception)) as end:
        train(out=out, teacher=rope, steps=1)
    assert end.value.exit_code == 2
    assert "--teacher needs --from" in capsys.readouterr().err
