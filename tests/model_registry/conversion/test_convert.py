"""``wave-serve convert``: what the result computes, holds and loads with, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
import typer
from helpers.small_models import build
from helpers.small_sources import SIZES, edit_json, write_source
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from model_registry.configuration_wavelet import WaveletLlamaConfig
from model_registry.conversion import weights
from model_registry.conversion.cli import convert as convert_command
from model_registry.modeling_wavelet import WaveletLlamaForCausalLM

IDS = torch.randint(2, 97, (2, 75), generator=torch.Generator().manual_seed(3))


app = typer.Typer()
app.command()(convert_command)


def convert(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def converted(source, target, *options):
    done = convert(source, target, *options)
    assert done.exit_code == 0, done.output
    return target


class Unrotated(torch.nn.Module):
    """Cosines of 1 and sines of 0: Llama's rotation by no angle."""

    def forward(self, hidden_states, position_ids):
        shape = (*position_ids.shape, SIZES["hidden_size"] // SIZES["num_attention_heads"])
        return torch.ones(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)


def logits_without_rotation(directory):
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64).eval()
    model.model.rotary_emb = Unrotated()
    with torch.inference_mode():
        return model(IDS).logits


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("shard", ["1GB", "60KB"], ids=["one_file", "sharded"])
def test_without_positions_it_is_the_source_without_its_rotation(tmp_path, family, tied, shard):
    source = write_source(tmp_path / "source", family, shard=shard, tie_word_embeddings=tied)
    assert (len(list(source.glob("*.safetensors"))) > 3) == (shard == "60KB")
    target = converted(source, tmp_path / "target", "--position", "nope")
    model = WaveletLlamaForCausalLM.from_pretrained(target, dtype=torch.float64).eval()
    with torch.inference_mode():
        ours = model(IDS).logits
    theirs = logits_without_rotation(source)
    assert theirs.std() > 0.1
    assert (ours - theirs).abs().max() < 1e-9


def test_llamas_own_biases_come_along(tmp_path):
    source = write_source(tmp_path / "source", attention_bias=True, mlp_bias=True)
    target = converted(source, tmp_path / "target", "--position", "nope")
    model = WaveletLlamaForCausalLM.from_pretrained(target, dtype=torch.float64).eval()
    with torch.inference_mode():
        assert (model(IDS).logits - logits_without_rotation(source)).abs().max() < 1e-9


def test_our_own_model_with_rope_can_be_converted_and_with_wavelets_cannot(tmp_path):
    source = tmp_path / "source"
    rope = build(position_encoding={"type": "rope"}, train_length=24)
    rope.save_pretrained(source)
    target = converted(source, tmp_path / "target")
    model = WaveletLlamaForCausalLM.from_pretrained(target)
    assert (model.config.position_type, model.config.train_length) == ("wavelet", 24)
    assert all(torch.equal(value, rope.state_dict()[name]) for name, value in model.state_dict().items())
    done = convert(target, tmp_path / "again")
    assert done.exit_code == 2
    assert "position_encoding.type='wavelet': only a model with rope can be converted" in done.output


def test_the_length_at_which_log_n_begins_is_kept_where_it_fits_and_reported_where_not(tmp_path):
    source = tmp_path / "source"
    entries = {"logit_scaling": "log_n", "logit_scaling_length": 8}
    build(position_encoding={"type": "rope"}, train_length=24, **entries).save_pretrained(source)
    done = convert(source, tmp_path / "kept", "--train-length", "16")
    assert "dropped" not in done.output
    assert WaveletLlamaConfig.from_pretrained(tmp_path / "kept").logit_scaling_length == 8
    assert "logit scaling `log_n` from 8 tokens on" in (tmp_path / "kept/README.md").read_text()
    for options, reason in (
        (["--train-length", "7"], "the result has logit_scaling='log_n' and train_length=7"),
        (["--logit-scaling", "none"], "the result has logit_scaling='none' and train_length=24"),
    ):
        target = tmp_path / options[-1]
        done = convert(source, target, *options)
        assert f"dropped the source's logit_scaling_length=8: {reason}" in done.output
        assert WaveletLlamaConfig.from_pretrained(target).logit_scaling_length is None
        assert f"- Dropped: the source's logit_scaling_length=8: {reason}." in (target / "README.md").read_text()


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_every_tensor_of_the_source_is_there_unchanged_and_shares_its_bytes(tmp_path, family):
    source = write_source(tmp_path / "source", family, shard="60KB")
    target = converted(source, tmp_path / "target")
    for path in source.glob("*.safetensors"):
        assert (target / path.name).samefile(path)
    listed = json.loads((target / "model.safetensors.index.json").read_text())["weight_map"]
    for name, file in listed.items():
        with safe_open(target / file, framework="pt") as opened:
            assert name in opened.keys()  # noqa: SIM118
    added = {name for name, file in listed.items() if file == "model-added.safetensors"}
    assert len(added) == (3 if family == "qwen2" else 0)
    assert all(name.endswith("o_proj.bias") for name in added)


def test_transformers_loads_it_with_its_own_code_and_no_package_of_ours(tmp_path):
    source = write_source(tmp_path / "source", "qwen2", shard="60KB")
    target = converted(source, tmp_path / "target", "--train-length", "32")
    program = f"""
import sys
sys.modules["model_registry"] = sys.modules["wave_serve"] = None  # importing either fails
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
config = AutoConfig.from_pretrained({str(target)!r}, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained({str(target)!r}, trust_remote_code=True, dtype=torch.float64).eval()
bare = AutoModel.from_pretrained({str(target)!r}, trust_remote_code=True)
assert type(bare).__name__ == "WaveletLlamaModel"
ids = torch.arange(2, 92)[None]
with torch.inference_mode():
    print(config.position_encoding["type"], model(ids).logits.double().sum().item())
"""
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    kind, total = done.stdout.split()
    assert kind == "wavelet"
    model = WaveletLlamaForCausalLM.from_pretrained(target, dtype=torch.float64).eval()
    with torch.inference_mode():
        here = model(torch.arange(2, 92)[None]).logits.sum().item()
    assert float(total) == pytest.approx(here, abs=1e-9)


def test_the_config_says_what_was_asked_for_and_the_rest_is_the_sources(tmp_path):
    yarn = {"rope_type": "yarn", "rope_theta": 5e5, "factor": 8.0, "original_max_position_embeddings": 64}
    source = write_source(tmp_path / "source", rope_parameters=yarn, rms_norm_eps=3e-5, tie_word_embeddings=True)
    done = convert(source, tmp_path / "a")
    assert done.exit_code == 0, done.output
    assert "dropped the source's rope scaling 'yarn'" in done.output
    config = WaveletLlamaConfig.from_pretrained(tmp_path / "a")
    assert config.position_encoding == {
        "type": "wavelet", "wavelet": "ricker", "scale_exponents": list(range(8)), "shifts": [0, 1],
    }  # fmt: skip
    assert (config.train_length, config.logit_scaling, config.head_dim) == (64, "log_n", 16)
    assert config.max_position_embeddings == 64 * 64
    assert (config.rms_norm_eps, config.tie_word_embeddings) == (3e-5, True)
    assert "Dropped: the source's rope scaling 'yarn'" in (tmp_path / "a/README.md").read_text()
    assert "must be recalibrated" in (tmp_path / "a/README.md").read_text()

    entries = json.loads((source / "config.json").read_text()) | {"bos_token_id": None, "eos_token_id": None}
    (source / "config.json").write_text(json.dumps(entries))
    options = ["--wavelet", "haar", "--scale-exponents", "2,3,4,5", "--train-length", "48", "--logit-scaling", "none"]
    config = WaveletLlamaConfig.from_pretrained(converted(source, tmp_path / "b", *options))
    assert config.position_encoding["shifts"] == [0, 1, 2, 3]
    assert config.position_encoding["wavelet"] == "haar"
    assert (config.train_length, config.logit_scaling, config.near_bias) == (48, "none", None)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (None, None, 1)

    target = converted(source, tmp_path / "c", "--near-bias-slope", "0.25")
    assert WaveletLlamaConfig.from_pretrained(target).near_bias == (0.25, 64, 96)
    assert "`near_bias_slope` 0.25 and `near_bias_keys` 96" in (target / "README.md").read_text()
    target = converted(source, tmp_path / "d", "--near-bias-slope", "0.5", "--near-bias-keys", "70")
    assert WaveletLlamaConfig.from_pretrained(target).near_bias == (0.5, 64, 70)


def test_tokenizer_template_and_generation_config_come_along_and_other_files_do_not(tmp_path):
    source = write_source(tmp_path / "source")
    kept = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json", "LICENSE"]
    for name in [*kept, "pytorch_model.bin", "README.md", "eval.json"]:
        (source / name).write_text(f"{name} of the source")
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates/tool_use.jinja").write_text("with tools")
    target = converted(source, tmp_path / "target")
    assert (target / "additional_chat_templates/tool_use.jinja").read_text() == "with tools"
    for name in kept:
        assert (target / name).read_text() == f"{name} of the source"
    assert not (target / "pytorch_model.bin").exists()
    assert not (target / "eval.json").exists()
    assert "of the source" not in (target / "README.md").read_text()


def break_nothing(source):
    pass


def unknown_family(source):
    edit_json(source / "config.json", model_type="gpt_neox")


def sliding_window(source):
    edit_json(source / "config.json", model_type="mistral", sliding_window=128)


def sliding_layers(source):
    layers = ["full_attention", "sliding_attention", "full_attention"]
    edit_json(source / "config.json", model_type="qwen2", layer_types=layers)


def missing_shard(source):
    sorted(source.glob("*.safetensors"))[1].unlink()


def cut_shard(source):
    path = min(source.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:20])


def no_config(source):
    (source / "config.json").unlink()


def no_weights(source):
    for path in source.glob("model*"):
        path.unlink()


def quantised(source):
    edit_json(source / "config.json", quantization_config={"quant_method": "awq"})


def size_as_text(source):
    edit_json(source / "config.json", hidden_size="96")


def incomplete_rope(source):
    edit_json(source / "config.json", rope_parameters={"rope_type": "dynamic", "alpha": 2.0})


def shards_in_a_folder(source):
    index = source / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    edit_json(index, weight_map={name: f"shards/{file}" for name, file in weight_map.items()})


def index_of_names_alone(source):
    edit_json(source / "model.safetensors.index.json", weight_map=["lm_head.weight"])


def one_layer_more(source):
    edit_json(source / "config.json", num_hidden_layers=4)


def one_layer_less(source):
    edit_json(source / "config.json", num_hidden_layers=2)


@pytest.mark.parametrize(
    ("broken", "options", "said"),
    [
        (unknown_family, [], "model_type='gpt_neox': only llama, mistral, qwen2, wavelet_llama can be converted"),
        (sliding_window, [], "sliding_window=128: a model with a sliding window cannot be converted"),
        (sliding_layers, [], "only full_attention can be converted"),
        (missing_shard, [], "is missing: model.safetensors.index.json lists it"),
        (cut_shard, [], "is no safetensors file"),
        (no_config, [], "is no Hugging Face directory: it has no config.json"),
        (no_weights, [], "holds no model.safetensors and no model.safetensors.index.json"),
        (size_as_text, [], "config.json' cannot be read: Validation error for field 'hidden_size'"),
        (incomplete_rope, [], "config.json' cannot be read: \"Missing required keys in `rope_parameters`"),
        (shards_in_a_folder, [], "shard 'shards/model-00001-of-00020.safetensors' is no name of a file beside"),
        (index_of_names_alone, [], "is no safetensors index: ValueError("),
        (quantised, [], "quantization_config: convert the unquantised checkpoint"),
        (one_layer_more, [], "tensor 'model.layers.3.input_layernorm.weight' is missing from the source"),
        (one_layer_less, [], "tensor 'model.layers.2.input_layernorm.weight' has no place in a Llama"),
        (break_nothing, ["--shifts", "0,1,2"], "head size 16 is no multiple of 3 --shifts"),
        (break_nothing, ["--scale-exponents", "0,1", "--shifts", "0,1"], "but head_dim is 16"),
        (break_nothing, ["--shifts", "0,x"], "--shifts '0,x': must be whole numbers separated by commas"),
        (break_nothing, ["--wavelet", "sombrero"], "wavelet='sombrero': unknown"),
        (break_nothing, ["--position", "rope"], "--position 'rope': choose wavelet or nope"),
        (break_nothing, ["--near-bias-keys", "9"], "near_bias_keys=9: has no effect without near_bias_slope"),
        (break_nothing, ["--position", "nope", "--near-bias-slope", "0.5"], "near_bias_slope=0.5: has no effect"),
        (break_nothing, ["--logit-scaling", "linear"], "logit_scaling='linear': is unknown"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_cannot_be_converted_is_refused_in_one_line_and_nothing_is_written(tmp_path, broken, options, said):
    source = write_source(tmp_path / "source", shard="60KB")
    broken(source)
    done = convert(source, tmp_path / "target", *options)
    assert done.exit_code == 2
    assert said in done.output
    assert len(done.output.strip().splitlines()) == 1
    assert done.output.startswith("convert: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_a_full_disk_is_told_in_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: No space left on device")

    source = write_source(tmp_path / "source", "qwen2")
    monkeypatch.setattr(weights, "save_file", full)
    done = convert(source, tmp_path / "target")
    assert done.exit_code == 2
    assert done.output == "convert: Error while serializing: I/O error: No space left on device\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_a_target_that_exists_is_left_alone(tmp_path):
    source = write_source(tmp_path / "source")
    (tmp_path / "target").mkdir()
    (tmp_path / "target/mine").write_text("mine")
    done = convert(source, tmp_path / "target")
    assert done.exit_code == 2
    assert "exists: choose another, or remove it" in done.output
    assert (tmp_path / "target/mine").read_text() == "mine"


def test_memory_does_not_grow_with_the_model(tmp_path):
    """A model of 200 MB takes no more memory than one of 1 MB, bytes copied rather than linked."""

    def peak(vocab_size):
        source = write_source(tmp_path / f"source{vocab_size}", vocab_size=vocab_size)
        program = f"""
import os, resource, sys
from pathlib import Path
def refused(*_):
    raise OSError
os.link = refused
from model_registry.conversion.cli import convert
convert(Path({str(source)!r}), Path({str(tmp_path / f"target{vocab_size}")!r}))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        shutil.rmtree(source)
        return int(done.stdout.split()[-1]) * 1024

    assert peak(130_000) - peak(1_000) < 40e6
