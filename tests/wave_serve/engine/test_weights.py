"""Weights are checked against the config before an engine starts, and what is wrong with them is called by its name."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import weight_files
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from wave_serve.engine.checkpoint import bundled_checkpoint, inspect_checkpoint
from wave_serve.engine.errors import CheckpointError

SMALL = {
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
CONFIG = SMALL | {"model_type": "llama", "num_key_value_heads": 2, "tie_word_embeddings": True}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 123456\n"
Shapes = dict[str, tuple[int, ...]]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A checkpoint that can be served."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    weight_files.write(tmp_path / "model.safetensors", weight_files.llama(CONFIG))
    return tmp_path


def configure(directory: Path, **fields: object) -> None:
    (directory / "config.json").write_text(json.dumps(CONFIG | fields))


def rewrite(directory: Path, change: Callable[[Shapes], object]) -> None:
    shapes = weight_files.llama(CONFIG)
    change(shapes)
    weight_files.write(directory / "model.safetensors", shapes)


def complaint(directory: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        inspect_checkpoint(directory)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tie_word_embeddings": True},
        {"num_key_value_heads": 1},
        {"head_dim": 8},
        {"attention_bias": True},
        {"mlp_bias": True},
    ],
)
def test_what_transformers_writes_of_a_llama_is_served(tmp_path: Path, fields: dict) -> None:
    LlamaForCausalLM(LlamaConfig(**SMALL, **fields)).save_pretrained(tmp_path)
    assert inspect_checkpoint(tmp_path).vocab_size == 100


def test_so_is_it_in_several_files(tmp_path: Path) -> None:
    LlamaForCausalLM(LlamaConfig(**SMALL)).save_pretrained(tmp_path, max_shard_size="50KB")
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 2
    assert inspect_checkpoint(tmp_path)
    files[1].unlink()
    index = tmp_path / "model.safetensors.index.json"
    assert complaint(tmp_path) == f"{index} names files that are missing: {files[1].name}"


def test_so_are_other_models_and_the_bundled_one(tmp_path: Path) -> None:
    Qwen2ForCausalLM(Qwen2Config(**SMALL, tie_word_embeddings=True)).save_pretrained(tmp_path)
    assert inspect_checkpoint(tmp_path)
    assert inspect_checkpoint(bundled_checkpoint())


def test_tensors_that_are_stored_as_one_are_served(directory: Path) -> None:
    def fuse(shapes: Shapes) -> None:
        for layer in range(3):
            for part in "qkv":
                del shapes[f"model.layers.{layer}.self_attn.{part}_proj.weight"]
            shapes[f"model.layers.{layer}.self_attn.qkv_proj.weight"] = (128, 64)

    rewrite(directory, fuse)
    assert inspect_checkpoint(directory)


@pytest.mark.parametrize("of", ["llama", "wavelet_llama", "qwen2"])
def test_a_head_that_is_neither_there_nor_the_embeddings_is_missed(directory: Path, of: str) -> None:
    configure(directory, tie_word_embeddings=False, model_type=of)
    said = complaint(directory)
    assert "lm_head.weight" in said
    assert "tie_word_embeddings" in said
    rewrite(directory, lambda shapes: shapes.update({"lm_head.weight": (100, 64)}))
    assert inspect_checkpoint(directory)


def test_by_default_a_llamas_embeddings_are_not_its_head(directory: Path) -> None:
    config = {name: value for name, value in CONFIG.items() if name != "tie_word_embeddings"}
    (directory / "config.json").write_text(json.dumps(config))
    assert "lm_head.weight" in complaint(directory)


@pytest.mark.parametrize("name", [*weight_files.llama(CONFIG)])
def test_every_tensor_is_missed_by_its_name(directory: Path, name: str) -> None:
    rewrite(directory, lambda shapes: shapes.pop(name))
    assert complaint(directory) == f"{directory}: tensors that config.json asks for are missing: {name}"


def test_many_that_are_missing_are_counted(directory: Path) -> None:
    configure(directory, num_hidden_layers=4)
    assert "model.layers.3.self_attn.v_proj.weight and 6 more" in complaint(directory)


def test_biases_that_the_config_asks_for_are_missed(directory: Path) -> None:
    configure(directory, attention_bias=True)
    assert "model.layers.0.self_attn.q_proj.bias, " in complaint(directory)


@pytest.mark.parametrize("name", [*weight_files.llama(CONFIG)])
def test_every_wrong_shape_is_named(directory: Path, name: str) -> None:
    shape = weight_files.llama(CONFIG)[name]
    rewrite(directory, lambda shapes: shapes.update({name: (shape[0] + 2, *shape[1:])}))
    said = f"tensor {name} has the shape {[shape[0] + 2, *shape[1:]]}, by config.json it is {list(shape)}"
    assert complaint(directory) == f"{directory}: {said}"
    rewrite(directory, lambda shapes: shapes.update({name: (*shape, 1)}))
    assert f"tensor {name} has the shape" in complaint(directory)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"vocab_size": 101}, "model.embed_tokens.weight has the shape [100, 64], by config.json it is [101, 64]"),
        ({"num_attention_heads": 8}, "model.layers.0.self_attn.k_proj.weight has the shape [32, 64]"),
        ({"num_hidden_layers": 2}, "num_hidden_layers is 2, but there are tensors of later layers: model.layers.2."),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers is 1000000000000, but there are only 29 tensors"),
    ],
)
def test_a_config_that_is_another_models_is_noticed(directory: Path, fields: dict, said: str) -> None:
    configure(directory, **fields)
    assert said in complaint(directory)


def test_quantised_weights_are_the_engines_to_judge(directory: Path) -> None:
    configure(directory, quantization_config={"quant_method": "gptq"})
    rewrite(directory, lambda shapes: shapes.pop("model.layers.0.mlp.up_proj.weight"))
    assert inspect_checkpoint(directory)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json", "model.safetensors.index.json"])
def test_a_pointer_of_git_lfs_is_called_one(directory: Path, file: str) -> None:
    (directory / file).write_bytes(POINTER)
    assert complaint(directory) == (
        f"{directory / file} is a git-lfs pointer, not the file itself; fetch it: git lfs pull (in {directory})"
    )


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 9, 500, -1, -1000])
def test_a_truncated_file_is_called_one(directory: Path, kept: int) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    assert complaint(directory).startswith(f"{path} is truncated: it has {len(path.read_bytes())} bytes, its header ")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{}" * 50, "is no safetensors file"),
        (b"PK\x03\x04" * 50, "is no safetensors file"),
        (b"\xff" * 100, "is no safetensors file"),
        ((3).to_bytes(8, "little") + b"[1]", "its header does not describe tensors"),
        ((4).to_bytes(8, "little") + b"nope", "its header does not describe tensors"),
        ((10).to_bytes(8, "little") + b'{"a": [1]}', "its header does not describe tensors"),
        (weight_files.header({"a": (2, 2)}) + bytes(9), "is longer than its header says: it has"),
        (
            weight_files.header({"a": (2, 2)}).replace(b"[2, 2]", b"[2, 3]") + bytes(8),
            "tensor a is BF16 of shape [2, 3], but has 8 bytes",
        ),
    ],
)
def test_what_is_no_safetensors_file_is_called_so(directory: Path, content: bytes, said: str) -> None:
    (directory / "model.safetensors").write_bytes(content)
    assert said in complaint(directory)


def test_every_kind_of_number_that_the_library_writes_is_read(tmp_path: Path) -> None:
    kinds = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.float8_e4m3fn)
    save_file({str(kind): torch.zeros(3, 5).to(kind) for kind in kinds}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(SMALL | {"model_type": "other"}))
    assert inspect_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ("", "is no index of weights"),
        ("[]", "is no index of weights"),
        ('{"weight_map": {}}', "is no index of weights"),
        ('{"weight_map": {"a": 1}}', "is no index of weights"),
        ('{"weight_map": {"a": "model.safetensors"}}', "names tensors that model.safetensors does not hold: a"),
        ('{"weight_map": {"a": "x.safetensors", "b": "y.safetensors"}}', "are missing: x.safetensors, y.safetensors"),
    ],
)
def test_an_index_that_does_not_fit_is_named(directory: Path, index: str, said: str) -> None:
    (directory / "model.safetensors.index.json").write_text(index)
    assert said in complaint(directory)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("pytorch_model.bin", "only pytorch_model.bin; convert it: python -c "),
        ("model.Q4_K_M.gguf", "gguf_file='model.Q4_K_M.gguf'"),
        ("consolidated.00.pth", "only consolidated.00.pth; convert it"),
        ("tf_model.h5", "from_tf=True"),
        ("training_args.bin", "holds no weights (*.safetensors)"),
    ],
)
def test_other_formats_are_named_with_how_to_convert_them(directory: Path, file: str, said: str) -> None:
    (directory / "model.safetensors").unlink()
    (directory / file).write_bytes(b"x")
    assert said in complaint(directory)


def test_a_gguf_file_itself_too(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    (directory / "m.gguf").write_bytes(b"GGUF")
    assert "gguf_file='m.gguf'" in complaint(directory / "m.gguf")


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("models--meta-llama--Llama-3.2-1B/snapshots/0a1b2c", "meta-llama/Llama-3.2-1B"),
        ("models--gpt2/snapshots/0a1b2c", "gpt2"),
        ("models--a--b/0a1b2c", "0a1b2c"),
        ("datasets--a--b/snapshots/0a1b2c", "0a1b2c"),
        ("plain", "plain"),
    ],
)
def test_a_snapshot_of_a_cache_has_its_repositorys_name(tmp_path: Path, place: str, name: str) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / place
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / "1").write_text(json.dumps(CONFIG))
    weight_files.write(blobs / "2", weight_files.llama(CONFIG))
    (snapshot / "config.json").symlink_to(blobs / "1")
    (snapshot / "model.safetensors").symlink_to(blobs / "2")
    assert inspect_checkpoint(snapshot).name == name
    if snapshot.parent.name == "snapshots":
        assert complaint(snapshot.parent.parent).endswith(f"give one of its snapshots: {snapshot}")
