"""Two replicas of a wavelet model with a LoRA adapter and drafted tokens, as `serve` starts them."""

import os
import signal
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
import torch
from helpers import lora_adapter, served, tiny_wavelet
from openai import OpenAI

pytestmark = pytest.mark.engine

LARGEST_ERROR_NATS = 1e-3
NGRAMS = '{"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 3, "prompt_lookup_min": 1}'
ADAPTER = "adapted"
PROMPT_TOKENS, DECODED = 300, 32


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint; its adapter lies in the folder `adapter` beside it."""
    folder = tmp_path_factory.mktemp("replicas")
    return tiny_wavelet.build(folder / "tiny-wavelet", Path(__file__).read_text())


@pytest.fixture(scope="module")
def models(checkpoint: Path) -> dict[str, torch.nn.Module]:
    """The dense float32 models that the served ones are held against, by name."""
    from model_registry.modeling_wavelet import WaveletLlamaForCausalLM

    base = WaveletLlamaForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    return {checkpoint.name: base, ADAPTER: lora_adapter.write_adapter(base, checkpoint.parent / "adapter")}


@pytest.fixture(scope="module")
def real(
    checkpoint: Path, models: dict[str, torch.nn.Module], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[served.Served]:
    engine = ["--data-parallel-size", "2", "--dtype", "float32", "--enable-prefix-caching"]
    engine += ["--speculative-config", NGRAMS, "--max-num-batched-tokens", "128", "--max-num-seqs", "16"]
    engine += ["--enable-lora", "--lora-modules", f"{ADAPTER}={checkpoint.parent / 'adapter'}"]
    with served.serving(checkpoint, tmp_path_factory.mktemp("served"), "--", *engine) as one:
        yield one


def worst_error(real: served.Served, model: str, reference: torch.nn.Module, seed: int) -> float:
    """Of the log-probabilities of a prompt and its completion, which repeats itself so that drafts are taken."""
    part = torch.randint(tiny_wavelet.VOCABULARY, (PROMPT_TOKENS // 3,), generator=torch.Generator().manual_seed(seed))
    body = {
        "model": model,
        "prompt": part.repeat(3).tolist(),
        "max_tokens": DECODED,
        "temperature": 0,
        "ignore_eos": True,
        "echo": True,
        "logprobs": 1,
        "return_token_ids": True,
    }
    answer = httpx.post(f"{real.url}/v1/completions", json=body, timeout=served.START_SECONDS)
    assert answer.status_code == 200, answer.text
    [choice] = answer.json()["choices"]
    tokens = torch.tensor([body["prompt"] + choice["token_ids"][-DECODED:]])
    with torch.inference_mode():
        expected = reference(tokens).logits[0, :-1].log_softmax(-1).gather(-1, tokens[0, 1:, None])[:, 0]
    told = torch.tensor(choice["logprobs"]["token_logprobs"][1:])
    assert told.shape == expected.shape
    return float((told - expected).abs().max())


def test_either_replica_serves_model_and_adapter_as_the_dense_reference_has_them(
    real: served.Served, models: dict[str, torch.nn.Module]
) -> None:
    asked = [(name, seed) for seed in range(3) for name in models]
    with ThreadPoolExecutor(len(asked)) as pool:
        errors = list(pool.map(lambda one: worst_error(real, one[0], models[one[0]], one[1]), asked))
    assert max(errors) <= LARGEST_ERROR_NATS
    for replica in ("0", "1"):
        assert real.engine_metric("vllm:generation_tokens_total", f'engine="{replica}"') > 0
    assert real.engine_metric("vllm:spec_decode_num_accepted_tokens_total") > 0
    [base, adapter] = (models[name](torch.tensor([[1, 2, 3]])).logits for name in models)
    assert (base - adapter).abs().max() > 1, "an adapter that is not applied would not show"


def test_the_adapter_is_a_model_within_its_models_limits(real: served.Served) -> None:
    cards = {card["id"]: card for card in httpx.get(f"{real.url}/v1/models").json()["data"]}
    assert list(cards) == [real.model, ADAPTER]
    assert cards[ADAPTER]["parent"] == real.model
    assert cards[ADAPTER]["limits"] == cards[real.model]["limits"]
    assert cards[ADAPTER]["train_length"] == tiny_wavelet.TRAIN_LENGTH
    limit = cards[ADAPTER]["max_model_len"]
    body = {"model": ADAPTER, "prompt": [1] * limit, "max_tokens": 1}
    refused = httpx.post(f"{real.url}/v1/completions", json=body)
    assert (refused.status_code, refused.json()["error"]["n_ctx"]) == (400, limit)


def test_a_replica_that_dies_ends_its_streams_and_the_whole_engine_starts_anew(real: served.Served) -> None:
    before = real.engine_pids()
    cores = [pid for pid, name in before.items() if "EngineCor" in name]
    assert len(cores) == 2
    client = OpenAI(base_url=f"{real.url}/v1", api_key="none", max_retries=0)
    body = {"model": real.model, "prompt": [2] * 64, "max_tokens": 1900, "n": 8, "extra_body": {"ignore_eos": True}}
    streams = [client.completions.create(**body, stream=True) for _ in cores]
    for stream in streams:
        next(iter(stream))
    os.kill(cores[1], signal.SIGKILL)
    for stream in streams:
        with pytest.raises(openai.APIError):
            list(stream)
    deadline = time.monotonic() + served.START_SECONDS
    while _alive(before) or "starting it again" not in real.stderr.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert httpx.get(f"{real.url}/ready").status_code == 503


def _alive(pids: Iterable[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]
