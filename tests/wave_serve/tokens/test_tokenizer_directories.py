"""A checkpoint whose other files make the engine's tokenizer another one than tokenizer.json alone is counted upstream.

The engine's side is played by Transformers' AutoTokenizer, which is what vLLM builds its tokenizer with.
"""

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.engine_tokenizer import EngineTokenizer
from helpers.fake_upstream import FakeUpstream, hang_up, reply_json
from helpers.hostile import hostile_texts
from helpers.running import running, settings_for
from tokenizers import Tokenizer

from wave_serve.engine.checkpoint import bundled_checkpoint
from wave_serve.errors import ApiError
from wave_serve.settings import TimeoutSettings
from wave_serve.tokens.counter import TokenCounter
from wave_serve.tokens.named_tokens import named_tokens
from wave_serve.upstream.upstream import Upstream

Change = Callable[[dict], None] | dict
CONFIG, MAP, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"


def token(content: str, **flags: bool) -> dict:
    plain = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
    return {"content": content, "special": True} | plain | flags


def no_class(config: dict) -> None:
    """Without a class in its configuration a tokenizer gets the one of its model's type."""
    del config["tokenizer_class"]


NAMED_ELSEWHERE = {
    "extra_special_tokens": {CONFIG: {"extra_special_tokens": ["<|im_start|>", "<|im_end|>"]}},
    "additional_special_tokens": {CONFIG: {"additional_special_tokens": ["<|tool|>"]}},
    "extra_special_tokens by name": {CONFIG: {"extra_special_tokens": {"image_token": "<image>"}}},
    "an extra token with flags": {
        CONFIG: {"extra_special_tokens": [token("<|x|>", lstrip=True) | {"__type": "AddedToken"}]}
    },
    "added_tokens_decoder": {CONFIG: {"added_tokens_decoder": {"9000": token("<|tool|>")}}},
    "an added token that is not special": {CONFIG: {"added_tokens_decoder": {"9000": token("<tool>", special=False)}}},
    "another flag of a known token": {
        CONFIG: {"added_tokens_decoder": {"0": token("<|endoftext|>", lstrip=True, rstrip=True)}}
    },
    "split_special_tokens": {CONFIG: {"split_special_tokens": True}},
    "another bos_token": {CONFIG: {"bos_token": "<|bos|>"}},
    "a word as eos_token": {CONFIG: {"eos_token": "return"}},
    "a token of a model's own": {CONFIG: {"audio_token": "<|audio|>"}},
    "special_tokens_map.json": {MAP: {"bos_token": "<|bos|>"}},
    "a list in special_tokens_map.json": {MAP: {"additional_special_tokens": ["<|a|>", "<|b|>"]}},
    "added_tokens.json": {ADDED: {"<|fim|>": 9001}},
}
ANOTHER_CLASS = {
    name: {CONFIG: {"tokenizer_class": name}}
    for name in (
        *("GPT2Tokenizer", "GPT2TokenizerFast", "Qwen2Tokenizer", "LlamaTokenizer"),
        *("GPTNeoXTokenizer", "CodeGenTokenizer", "RobertaTokenizer", "WhisperTokenizer", "CohereTokenizer"),
    )
} | {
    "a class that adds a space": {CONFIG: {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}},
    "the class of gpt2": {CONFIG: no_class, "config.json": {"model_type": "gpt2"}},
    "the class of qwen2": {CONFIG: no_class, "config.json": {"model_type": "qwen2"}},
}
HARMLESS = {
    "nothing": {},
    "PreTrainedTokenizerFast": {CONFIG: {"tokenizer_class": "PreTrainedTokenizerFast"}},
    "the class of llama": {CONFIG: no_class, "config.json": {"model_type": "llama"}},
    "a field that means nothing": {CONFIG: {"do_lower_case": True}},
}


def directory(path: Path, changes: dict[str, Change]) -> Path:
    """The bundled checkpoint's tokenizer with some of its files changed."""
    for name in ("tokenizer.json", CONFIG, "config.json"):
        shutil.copy(bundled_checkpoint() / name, path / name)
    for name, change in changes.items():
        content = json.loads((path / name).read_text()) if (path / name).exists() else {}
        if isinstance(change, dict):
            content |= change
        else:
            change(content)
        (path / name).write_text(json.dumps(content))
    return path


def checked(path: Path, fake: FakeUpstream) -> TokenCounter:
    """The counter of a tokenizer directory, after an upstream has become ready."""

    async def check() -> TokenCounter:
        counter = TokenCounter(fake.model, path / "tokenizer.json")
        upstream = Upstream(fake.url, (fake.model,), TimeoutSettings())
        await counter.check(upstream)
        await upstream.client.close()
        return counter

    return asyncio.run(check())


@pytest.mark.parametrize("case", [*NAMED_ELSEWHERE, *ANOTHER_CLASS])
def test_a_directory_that_makes_another_tokenizer_is_counted_upstream(
    case: str, tmp_path: Path, upstream: FakeUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    path = directory(tmp_path, (NAMED_ELSEWHERE | ANOTHER_CLASS)[case])
    engine, plain = EngineTokenizer(path), Tokenizer.from_file(str(path / "tokenizer.json"))
    texts = [*hostile_texts(300, named_tokens(path / "tokenizer.json")), "    1,\n" * 100, "return x"]
    assert any(engine.encode(text) != plain.encode(text).ids for text in texts), "the case shows no fault"
    upstream.answers |= engine.handlers
    assert not checked(path, upstream).local
    (record,) = [record for record in caplog.records if "tokenizer differs" in record.message]
    assert record.fields["text"]
    assert record.fields["tokenizer"] == str(path / "tokenizer.json")


def test_an_upstream_that_refuses_a_text_of_the_battery_counts_for_itself(
    tmp_path: Path, upstream: FakeUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    upstream.answers["/tokenize"] = reply_json({"error": {"message": "no"}}, "400 Bad Request")
    assert not checked(directory(tmp_path, {}), upstream).local
    assert [record.fields["reason"] for record in caplog.records if "tokenizer differs" in record.message]


def test_an_upstream_that_cannot_be_reached_is_not_ready(tmp_path: Path, upstream: FakeUpstream) -> None:
    upstream.answers["/tokenize"] = hang_up
    with pytest.raises(ApiError):
        checked(directory(tmp_path, {}), upstream)


@pytest.mark.parametrize("case", HARMLESS)
def test_a_directory_that_makes_the_same_tokenizer_is_counted_locally(
    case: str, tmp_path: Path, upstream: FakeUpstream
) -> None:
    path = directory(tmp_path, HARMLESS[case])
    upstream.answers |= EngineTokenizer(path).handlers
    assert checked(path, upstream).local


@pytest.mark.parametrize(
    ("case", "prompt", "tokens", "cap", "status"),
    [
        ("extra_special_tokens", "<|im_start|>hi<|im_end|>" * 5, 20, 64, 200),
        ("split_special_tokens", "<|endoftext|>" * 49, 343, 100, 400),
        ("GPT2Tokenizer", "    1,\n" * 100, 401, 350, 400),
    ],
)
def test_the_cap_is_held_against_what_the_engine_counts(
    case: str, prompt: str, tokens: int, cap: int, status: int, tmp_path: Path, upstream: FakeUpstream
) -> None:
    path = directory(tmp_path, (NAMED_ELSEWHERE | ANOTHER_CLASS)[case])
    engine = EngineTokenizer(path)
    upstream.answers |= engine.handlers | {"/v1/completions": reply_json({"choices": []})}
    model = {"tokenizer": str(path / "tokenizer.json"), "max_tokens": cap}
    with running(settings_for(upstream, model=model)) as gateway:
        answer = gateway.post({"prompt": prompt, "max_tokens": 1})
    assert answer.status_code == status
    assert int(answer.headers["x-wave-context-tokens"]) == tokens == len(engine.encode(prompt))


def test_tokens_are_found_wherever_a_file_names_them(tmp_path: Path) -> None:
    path = directory(tmp_path, {name: change for case in NAMED_ELSEWHERE.values() for name, change in case.items()})
    (path / "chat_template.jinja").write_text("{{ '<|turn|>' + message['content'] + '[/INST]' }}")
    (path / CONFIG).write_text(json.dumps({"extra_special_tokens": {"a": "<|im_start|>"}, "chat_template": "x" * 200}))
    (path / MAP).write_text("no JSON")
    found = named_tokens(path / "tokenizer.json")
    assert {"<|im_start|>", "<|endoftext|>", "<|fim|>", "<|turn|>", "[/INST]"} <= set(found)
    assert "x" * 200 not in found
