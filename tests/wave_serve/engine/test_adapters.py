"""LoRA adapters of `wave-serve serve`: each is a model of its own, under the policy of the model that it adapts."""

import json
from pathlib import Path

import pytest
from helpers import weight_files

from wave_serve.engine.adapters import adapter_names, cpu_slots
from wave_serve.engine.arguments import EngineArguments
from wave_serve.engine.checkpoint import inspect_checkpoint
from wave_serve.engine.errors import EngineSetupError
from wave_serve.engine.policy import served_models
from wave_serve.settings import Settings

CONFIG = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "max_position_embeddings": 2048,
    "train_length": 64,
    "tie_word_embeddings": True,
}


def names(*modules: str, lora: bool = True) -> tuple[str, ...]:
    given = ["--enable-lora"] if lora else []
    return adapter_names(EngineArguments([*given, "--lora-modules", *modules]), "base")


def test_both_ways_to_name_an_adapter_are_read() -> None:
    described = json.dumps({"name": "sql", "path": "/a,b", "base_model_name": "base"})
    assert names("chat=/loras/chat", described) == ("chat", "sql")
    assert adapter_names(EngineArguments(["--enable-lora"]), "base") == ()


@pytest.mark.parametrize(
    ("modules", "said"),
    [
        (["base=/x"], "--lora-modules base=/x: a model named 'base' is served already"),
        (["a=/x", "a=/y"], "--lora-modules a=/y: a model named 'a' is served already"),
        (["/x"], "--lora-modules /x: write NAME=PATH or"),
        (["=/x"], "--lora-modules =/x: write NAME=PATH or"),
        (['{"name": "a"}'], '--lora-modules {"name": "a"}: write NAME=PATH or'),
        (['{"name": 1, "path": "/x"}'], "write NAME=PATH or"),
    ],
)
def test_an_adapter_that_cannot_be_served_is_refused(modules: list[str], said: str) -> None:
    with pytest.raises(EngineSetupError) as caught:
        names(*modules)
    assert said in str(caught.value)


def test_adapters_need_the_option_that_turns_them_on() -> None:
    with pytest.raises(EngineSetupError, match="--lora-modules a: it needs --enable-lora beside it"):
        names("a=/x", lora=False)


def test_on_cpu_a_slot_for_adapters_stays_empty() -> None:
    two = ["--lora-modules", "a=/x", "b=/y"]
    assert cpu_slots(EngineArguments(two)) == ("--max-loras", "3")
    assert cpu_slots(EngineArguments([*two, "--max-loras", "3"])) == ()
    assert cpu_slots(EngineArguments([])) == ()
    with pytest.raises(EngineSetupError, match="--max-loras 2: with 2 adapters vLLM's CPU build needs 3"):
        cpu_slots(EngineArguments([*two, "--max-loras=2"]))


def test_an_adapter_has_the_models_policy_but_for_its_own_settings(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    weight_files.write(tmp_path / "model.safetensors", weight_files.llama(CONFIG))
    given = {"base": {"overflow": "truncate_head"}, "small": {"max_tokens": 100}}
    settings = Settings.model_validate({"models": given})
    found = served_models(settings, inspect_checkpoint(tmp_path), "base", ("plain", "small"), 1000)
    assert list(found) == ["base", "plain", "small"]
    assert found["plain"] == found["base"]
    assert (found["base"].max_tokens, found["base"].train_length) == (1000, 64)
    assert (found["small"].max_tokens, found["small"].train_length, found["small"].overflow) == (
        100,
        64,
        "truncate_head",
    )
    with pytest.raises(EngineSetupError, match="models describes 'small', but the served model is 'base' and 'plain'"):
        served_models(settings, inspect_checkpoint(tmp_path), "base", ("plain",), None)
