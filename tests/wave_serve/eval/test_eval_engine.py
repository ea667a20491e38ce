"""The evaluations against a real vLLM engine behind the gateway."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers import fake_endpoint, served, tiny_wavelet
from helpers.eval_command import Eval, result

pytestmark = pytest.mark.engine

LARGEST_ERROR_NATS = 1e-3
TEXT = Path(fake_endpoint.__file__)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[served.Served]:
    """`wave-serve serve` on a random float32 checkpoint."""
    checkpoint = tiny_wavelet.build(tmp_path_factory.mktemp("checkpoint") / "tiny-wavelet", TEXT.read_text())
    with served.serving(checkpoint, tmp_path_factory.mktemp("served"), "--", "--dtype", "float32") as one:
        yield one


@pytest.mark.parametrize("protocol", ["whole", "non-overlapping"])
def test_the_loss_through_the_endpoint_is_that_of_the_hugging_face_model(
    protocol: str, real: served.Served, wave_eval: Eval, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    from model_registry.modeling_wavelet import WaveletLlamaForCausalLM

    lengths = [32, 64, 512, 832]
    ran = wave_eval(
        "perplexity", "--base-url", f"{real.url}/v1", "--text", TEXT, "--lengths", "1/2,1,8,13", "--samples", 1,
        "--protocol", protocol, "--out", tmp_path,
    )  # fmt: skip
    assert ran.status == 0, ran.err
    rows = result(tmp_path)["rows"]
    assert [row["length"] for row in rows] == lengths

    model = WaveletLlamaForCausalLM.from_pretrained(real.checkpoint, dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(real.checkpoint)(TEXT.read_text(), return_tensors="pt").input_ids[0, :832]
    journal = [json.loads(line)["nats"] for line in (tmp_path / "perplexity.jsonl").read_text().splitlines()]
    per_prompt = {len(nats): nats for nats in journal[1:]}  # the last of each length ends where the sample ends
    for row, length in zip(rows, lengths, strict=True):
        size = length if protocol == "whole" else min(length, 64)
        pieces = ids[len(ids) % length :].view(-1, size)
        with torch.inference_mode():
            log_probs = model(pieces).logits[:, :-1].log_softmax(-1)
        expected = -log_probs.gather(-1, pieces[:, 1:, None])[..., 0]
        assert row["nats_per_token"] == pytest.approx(expected.mean().item(), abs=LARGEST_ERROR_NATS)
        assert row["end_nats_per_token"] == pytest.approx(expected[-1, -16:].mean().item(), abs=LARGEST_ERROR_NATS)
        worst = (torch.tensor(per_prompt[size - 1]) - expected[-1]).abs().max()
        assert worst < LARGEST_ERROR_NATS
    assert rows[0]["nats_per_token"] != pytest.approx(rows[1]["nats_per_token"], abs=LARGEST_ERROR_NATS)


def test_passkey_trials_are_answered_by_the_engine(real: served.Served, wave_eval: Eval, tmp_path: Path) -> None:
    """A random model knows no key; every prompt must still have its exact length."""
    before = real.engine_metric("vllm:prompt_tokens_total")
    ran = wave_eval(
        "passkey", "--base-url", real.url, "--lengths", "200t,16", "--trials", 3, "--depths", "0,100", "--out", tmp_path
    )
    assert ran.status == 0, ran.err
    assert [(row["trials"], row["exact"]) for row in result(tmp_path, "passkey")["rows"]] == [(3, 0), (3, 0)]
    prompts = real.engine_metric("vllm:prompt_tokens_total") - before
    answers = real.engine_metric("vllm:generation_tokens_total")
    assert 3 * (200 + 1024) - answers <= prompts < 3 * (200 + 1024)
