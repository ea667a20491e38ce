"""``wave-serve train --from``: texts of every kind, full training and adapters, resuming, two processes, refusals."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from helpers.refused import line_of
from helpers.small_sources import edit_json
from helpers.tiny_run import TINY, write_corpus
from safetensors import SafetensorError
from transformers import AutoTokenizer

from model_registry.configuration_wavelet import WaveletLlamaConfig
from model_registry.modeling_wavelet import WaveletLlamaForCausalLM
from model_registry.training.cli import train
from model_registry.training.recalibration import measure

SHORT = {"train_length": "32", "batch_sequences": "2", "eval_every": "3", "eval_sequences": "4", "warmup_steps": "1"}

GENERATION = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "bos_token_id": 0, "eos_token_id": [0, 7, 9]}
"""As of a chat model, with more ends than its config tells."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """What ``train`` writes, barely trained, with a file of the kinds that have to come along."""
    folder = tmp_path_factory.mktemp("source")
    corpus = write_corpus(folder / "corpus")
    train(out=folder / "run", corpus=corpus, steps=2, overrides=[f"{k}={v}" for k, v in TINY.items()])
    (folder / "run/model/chat_template.jinja").write_text("{{ messages }}")
    (folder / "run/model/additional_chat_templates").mkdir()
    (folder / "run/model/additional_chat_templates/tool_use.jinja").write_text("{{ tools }}")
    (folder / "run/model/generation_config.json").write_text(json.dumps(GENERATION))
    return folder / "run/model"


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("text") / "texts")


def recalibrate(source, out, *texts, steps=6, resume=False, measure=False, **changes):
    changes = [f"{name}={value}" for name, value in (SHORT | changes).items()]
    train(out=out, source=source, text=list(texts), steps=steps, resume=resume, measure=measure, overrides=changes)


def log(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def weights(path):
    return WaveletLlamaForCausalLM.from_pretrained(path, dtype=torch.float32).state_dict()


def test_training_on_lowers_the_loss_and_keeps_what_it_does_not_train(checkpoint, text, tmp_path):
    out = tmp_path / "run"
    recalibrate(checkpoint, out, text, steps=40, learning_rate="3e-3", eval_every="10")
    entries = log(out)
    assert [entry["step"] for entry in entries] == [10, 20, 30, 40]
    assert entries[-1]["tokens"] == 40 * 2 * 32
    assert entries[-1]["held_out_loss"] < entries[0]["held_out_loss"] - 0.3
    config = WaveletLlamaConfig.from_pretrained(out / "model")
    before = WaveletLlamaConfig.from_pretrained(checkpoint)
    assert config.train_length == 32
    assert config.position_encoding == before.position_encoding
    assert config.dtype == before.dtype == torch.bfloat16
    assert (out / "model/chat_template.jinja").read_text() == "{{ messages }}"
    assert (out / "model/additional_chat_templates/tool_use.jinja").read_text() == "{{ tools }}"
    assert json.loads((out / "model/generation_config.json").read_text()) == GENERATION
    assert (
        AutoTokenizer.from_pretrained(out / "model").get_vocab()
        == AutoTokenizer.from_pretrained(checkpoint).get_vocab()
    )
    assert {"loss_curve.json", "loss_curve.png", "README.md"} <= {path.name for path in (out / "model").iterdir()}


def test_a_resumed_run_is_the_uninterrupted_one(checkpoint, text, tmp_path):
    recalibrate(checkpoint, tmp_path / "whole", text, steps=9)
    out = tmp_path / "cut"
    # The same course of the learning rate, cut short after a checkpoint.
    with pytest.MonkeyPatch.context() as patch:
        from model_registry.training.recalibration import loop

        saves = []
        plain = loop.Recalibrating._save

        def save_and_die(self, model, at, command):
            plain(self, model, at, command)
            saves.append(at.step)
            if at.step == 4:
                raise KeyboardInterrupt

        patch.setattr(loop.Recalibrating, "_save", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            recalibrate(checkpoint, out, text, steps=9, checkpoint_minutes="0")
    assert saves == [1, 2, 3, 4]
    recalibrate(checkpoint, out, text, steps=9, resume=True, checkpoint_minutes="0")
    for whole, resumed in zip(log(tmp_path / "whole"), log(out), strict=True):
        assert resumed["step"] == whole["step"]
        assert resumed["loss"] == pytest.approx(whole["loss"], rel=1e-5)
        assert resumed["held_out_loss"] == pytest.approx(whole["held_out_loss"], rel=1e-5)


def test_adapters_are_merged_and_the_rest_stays(checkpoint, text, tmp_path):
    pytest.importorskip("peft")
    out = tmp_path / "run"
    recalibrate(checkpoint, out, text, steps=30, lora_rank="4", learning_rate="1e-2", gradient_checkpointing="true")
    before, after = weights(checkpoint), weights(out / "model")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "_proj" in name}
    assert log(out)[-1]["held_out_loss"] < log(out)[0]["held_out_loss"] - 0.05


def test_gradient_checkpointing_and_accumulation_change_nothing(checkpoint, text, tmp_path):
    exact = {"bf16": "false"}
    recalibrate(checkpoint, tmp_path / "a", text, batch_sequences="4", **exact)
    recalibrate(checkpoint, tmp_path / "b", text, batch_sequences="2", accumulate="2", **exact)
    recalibrate(checkpoint, tmp_path / "c", text, batch_sequences="4", gradient_checkpointing="true", **exact)
    for other in ("b", "c"):
        for one, two in zip(log(tmp_path / "a"), log(tmp_path / other), strict=True):
            assert one["held_out_loss"] == pytest.approx(two["held_out_loss"], rel=1e-5)


def test_texts_come_from_files_folders_json_lines_and_data_sets(checkpoint, text, tmp_path):
    documents = [path.read_text() for path in sorted(text.iterdir())]
    lines = tmp_path / "texts.jsonl"
    marked = "utf-8-sig"  # as some editors save it
    lines.write_text("".join(json.dumps({"body": document}) + "\n" for document in documents), encoding=marked)
    recalibrate(checkpoint, tmp_path / "folder", text)
    recalibrate(checkpoint, tmp_path / "files", *sorted(text.iterdir()))
    recalibrate(checkpoint, tmp_path / "lines", lines, text_field="body")
    runs = ["folder", "files", "lines"]
    try:
        import datasets
    except ModuleNotFoundError:
        pass
    else:
        datasets.Dataset.from_dict({"text": documents}).save_to_disk(tmp_path / "data")
        recalibrate(checkpoint, tmp_path / "set", tmp_path / "data")
        runs.append("set")
    losses = {json.dumps(entry["held_out_loss"]) for run in runs for entry in log(tmp_path / run)[-1:]}
    assert len(losses) == 1


def test_two_processes_train_the_same_model_as_one_with_twice_the_rows(checkpoint, text, tmp_path):
    recalibrate(checkpoint, tmp_path / "one", text, batch_sequences="4", bf16="false")
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command = [sys.executable, *launch, "-m", "model_registry.training", "--out", str(tmp_path / "two")]
    command += ["--from", str(checkpoint), "--text", str(text), "--steps", "6", "--no-measure"]
    command += [part for k, v in (SHORT | {"bf16": "false"}).items() for part in ("--set", f"{k}={v}")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    for one, two in zip(log(tmp_path / "one"), log(tmp_path / "two"), strict=True):
        assert two["tokens"] == one["tokens"]
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert two["held_out_loss"] == pytest.approx(one["held_out_loss"], rel=1e-4)
    before, after = weights(tmp_path / "one/model"), weights(tmp_path / "two/model")
    assert max((before[name] - after[name]).abs().max().item() for name in before) < 0.01


def refused(capsys, *arguments, **keywords):
    return line_of(capsys, lambda: recalibrate(*arguments, **keywords))


def test_what_cannot_be_trained_on_is_refused_in_one_line(checkpoint, text, tmp_path, capsys):
    out = tmp_path / "run"
    assert "nothing to train on: give --text PATH" in refused(capsys, checkpoint, out)
    assert "does not exist" in refused(capsys, checkpoint, out, tmp_path / "nothing")
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"txt": "b"}\n')
    assert "line 2: no object with 'text'" in refused(capsys, checkpoint, out, tmp_path / "bad.jsonl")
    for bad in (b'"caf\xe9"', rb'"\ud83d"'):
        (tmp_path / "bad.jsonl").write_bytes(b'{"text": "a"}\n{"text": ' + bad + b"}\n")
        assert "line 2: 'text' is no UTF-8: '\\ud" in refused(capsys, checkpoint, out, tmp_path / "bad.jsonl")
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    assert "is not UTF-8" in refused(capsys, checkpoint, out, tmp_path / "latin")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.json").write_text('{"model_type": "llama"}')
    said = refused(capsys, tmp_path / "other", out, text)
    assert "model_type='llama'; make it one with wave-serve convert first" in said
    assert "it has no config.json" in refused(capsys, tmp_path, out, text)
    assert "lora_rnk" in refused(capsys, checkpoint, out, text, lora_rnk="4")
    assert "must be int" in refused(capsys, checkpoint, out, text, lora_rank="x")
    assert "learning_rate=-1.0: must be positive" in refused(capsys, checkpoint, out, text, learning_rate="-1")
    for name, value in (("seed", "-1"), ("beta2", "1"), ("grad_clip", "0"), ("lora_alpha", "nan")):
        assert f"train: {name}={value}" in refused(capsys, checkpoint, out, text, **{name: value})
    said = refused(capsys, checkpoint, out, text, attention="flex_attention")
    assert "PyTorch has no backward pass of it on a CPU" in said
    assert "too few for a batch" in refused(capsys, checkpoint, out, text, batch_sequences="10000")
    assert not out.exists()
    out.mkdir()
    (out / "mine").touch()
    assert "is not empty; pass --resume" in refused(capsys, checkpoint, out, text)
    assert "holds no checkpoint to resume" in refused(capsys, checkpoint, out, text, resume=True)


def cut_config(source):
    (source / "config.json").write_text('{"model_type":')


def wrong_config(source):
    edit_json(source / "config.json", hidden_size="48")


def no_weights(source):
    (source / "model.safetensors").unlink()


def cut_weights(source):
    (source / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes()[:99])


def no_tokenizer(source):
    (source / "tokenizer.json").unlink()


def no_end_of_text(source):
    edit_json(source / "tokenizer_config.json", eos_token=None)


def words_without_a_row(source):
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.add_tokens([*(f"word{number}" for number in range(len(tokenizer), 512)), "return x"])
    tokenizer.save_pretrained(source)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (cut_config, "cannot be read: Expecting value"),
        (wrong_config, "cannot be read: Validation error for field 'hidden_size'"),
        (no_weights, "cannot be read: Error no file named model.safetensors"),
        (cut_weights, "cannot be read: Error while deserializing header"),
        (no_tokenizer, "cannot be read: Couldn't instantiate the backend tokenizer"),
        (no_end_of_text, "its tokenizer has no eos_token to end a document with"),
        (words_without_a_row, "its tokenizer gives 'return x' the number 512, but vocab_size=512"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_broken_checkpoint_is_refused_in_one_line(checkpoint, text, tmp_path, capsys, broken, said):
    source = tmp_path / "source"
    shutil.copytree(checkpoint, source)
    broken(source)
    line = refused(capsys, source, tmp_path / "run", text)
    assert line.startswith(f"train: --from {str(source)!r}")
    assert said in line
    assert not (tmp_path / "run").exists()


def test_a_full_disk_is_told_in_one_line(checkpoint, text, tmp_path, capsys, monkeypatch):
    def full(*_, **__):
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr(WaveletLlamaForCausalLM, "save_pretrained", full)
    assert "train: I/O error: No space left on device" in refused(capsys, checkpoint, tmp_path / "run", text, steps=1)
    assert "Not a directory" in refused(capsys, checkpoint, checkpoint / "config.json/run", text, steps=1)


def test_a_training_length_that_the_config_does_not_admit_is_refused_before_training(
    checkpoint, text, tmp_path, capsys
):
    source, out = tmp_path / "source", tmp_path / "run"
    shutil.copytree(checkpoint, source)
    edit_json(source / "config.json", logit_scaling="log_n", logit_scaling_length=16)
    said = refused(capsys, source, out, text, train_length="8")
    assert "logit_scaling_length=16: must be a whole number from 2 to train_length=8" in said
    assert not out.exists()


def test_sharding_that_would_be_passed_over_is_refused(checkpoint, text, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # as `accelerate launch --use_fsdp` sets it
    said = refused(capsys, checkpoint, tmp_path / "run", text)
    assert said.startswith("train: --use_fsdp with 1 process(es) on cpu: accelerate shards over several accelerators")
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_resumed_under_another_recipe(checkpoint, text, tmp_path, capsys):
    recalibrate(checkpoint, tmp_path / "run", text)
    said = refused(capsys, checkpoint, tmp_path / "run", text, resume=True, learning_rate="1e-3")
    assert "its learning_rate is 0.0002, not 0.001" in said


def test_a_longer_training_length_raises_the_longest_context(checkpoint, text, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(checkpoint, source)
    for longest, length, expected in ((1000, "64", 64 * 64), (5000, "64", 5000), (1000, "32", 1000)):
        edit_json(source / "config.json", max_position_embeddings=longest)
        out = tmp_path / f"{longest}_{length}"
        recalibrate(source, out, text, steps=1, train_length=length)
        assert WaveletLlamaConfig.from_pretrained(out / "model").max_position_embeddings == expected


@pytest.mark.parametrize(
    ("tokens", "longest", "expected"),
    [
        (32 * 64 + 1, 4096, [32, 64, 128, 256, 512, 1024, 2048]),
        (32 * 64, 4096, [32, 64, 128, 256, 512, 1024]),
        (9999, 2048, [32, 64, 128, 256, 512, 1024, 2047]),  # as convert makes it: 64 training lengths
        (9999, 200, [32, 64, 128, 199]),
        (9999, 32, [31]),
        (32, 4096, []),
    ],
)
def test_it_is_measured_as_far_as_the_text_and_the_longest_context_go(tokens, longest, expected):
    assert measure.measured_lengths(32, tokens, longest) == expected


def test_a_measurement_that_failed_says_why_and_resuming_repeats_it(checkpoint, text, tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    monkeypatch.setattr(measure, "PROGRAM", "import sys; print('starting'); sys.exit('wave-serve: no room')")
    given = {"measure": True, "held_out_fraction": "0.5"}
    assert "the server did not start: wave-serve: no room (see " in refused(capsys, checkpoint, out, text, **given)
    trained = weights(out / "model")
    said = refused(capsys, checkpoint, out, text, resume=True, **given)
    assert "the server did not start: wave-serve: no room (see " in said
    assert all(torch.equal(value, trained[name]) for name, value in weights(out / "model").items())
    said = refused(capsys, checkpoint, out, text, resume=True, held_out_fraction="0.5")
    assert "has spent its budget: nothing left to do" in said


@pytest.mark.engine
def test_the_result_is_measured_as_served(checkpoint, text, tmp_path, capsys):
    source, out = tmp_path / "source", tmp_path / "run"
    shutil.copytree(checkpoint, source)
    edit_json(source / "config.json", max_position_embeddings=64 * 32)
    recalibrate(source, out, text, held_out_fraction="0.5")
    recalibrate(source, out, text, held_out_fraction="0.5", measure=True, resume=True)
    document = json.loads((out / "model/eval.json").read_text())
    assert document["kind"] == "perplexity"
    assert [row["length"] for row in document["rows"]] == [32, 64, 128, 256, 512, 1024, 2047]
    assert document["rows"][0]["nats_per_token"] == pytest.approx(log(out)[-1]["held_out_loss"], rel=0.1)
    said = refused(capsys, source, out, text, held_out_fraction="0.5", measure=True, resume=True)
    assert "has spent its budget: nothing left to do" in said
