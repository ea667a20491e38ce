"""A converted checkpoint in real vLLM: Qwen2's biases, shards and grouped heads, against Transformers."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from helpers.small_sources import write_source

from model_registry.conversion.convert import convert
from model_registry.conversion.target_config import Options

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import sys
import torch
from vllm import LLM, SamplingParams
from model_registry.modeling_wavelet import WaveletLlamaForCausalLM

folder = sys.argv[1]
ids = torch.randint(2, 97, (300,), generator=torch.Generator().manual_seed(1)).tolist()
engine = LLM(
    model=folder, skip_tokenizer_init=True, dtype="float32", enforce_eager=True, max_model_len=512, max_logprobs=97,
    kv_cache_memory_bytes=64 << 20, disable_log_stats=True,
)
asked = SamplingParams(max_tokens=1, prompt_logprobs=97, detokenize=False)
[answer] = engine.generate([{"prompt_token_ids": ids}], asked, use_tqdm=False)
served = torch.tensor([[row[token].logprob for token in range(97)] for row in answer.prompt_logprobs[1:]])
model = WaveletLlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
with torch.inference_mode():
    expected = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
print("worst", (served - expected).abs().max().item(), "spread", expected.std().item())
# Left to the interpreter's end, one of vLLM's threads may still run then, which aborts the process.
engine.llm_engine.engine_core.shutdown()
"""


@pytest.mark.engine
def test_vllm_computes_what_transformers_computes(tmp_path: Path) -> None:
    source = write_source(
        tmp_path / "source", "qwen2", shard="100KB", hidden_size=128, num_attention_heads=4, num_key_value_heads=2
    )
    convert(source, tmp_path / "target", Options(train_length=64), "convert")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "target")]
    environment = os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    [said] = [line for line in done.stdout.splitlines() if line.startswith("worst ")]  # vLLM prints more after it
    worst, spread = map(float, said.removeprefix("worst ").split(" spread "))
    assert spread > 0.5
    assert worst < 1e-3
