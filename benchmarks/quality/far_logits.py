"""What keeps a model from reading farther: loss by position, and look-ups, with other logits past the training length.

    python -m benchmarks.quality.far_logits --text runs/networkx.txt --output benchmarks/results/bundled/far_logits.json

Neither form needs training, so one checkpoint is read with each:

- ``exponent``: ``log_n``'s factor goes on from the training length ``L`` as ``(ln n / ln L) ** exponent``; 1 is
  ``log_n``, 0 keeps what it has at ``L``;
- ``slope``: of the bonus for near keys, with ``log_n``; 0 is none.

The model runs in bfloat16 through ``wavelet_attention``, not through the server. Its loss is that of one stretch of
text, by how many tokens precede: the octave that ends at 1,024 is the mean over the positions from 512 to 1,023.
Look-ups are RULER's as ``wave-serve eval ruler`` asks them; an answer is right if each of its tokens is the likeliest
after those before.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shlex
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy

from benchmarks.servers import machine
from model_registry.attention import NearBias, wavelet_attention
from model_registry.modeling_wavelet import WaveletLlamaForCausalLM
from model_registry.positions.shared_table import shared_position_table
from wave_serve.eval.ruler.tasks import TASKS

if TYPE_CHECKING:
    from model_registry.configuration_wavelet import WaveletLlamaConfig

DEMO = Path(__file__).parents[2] / "model_registry/demo/wave-demo"
BLOCK = 128


class Form(NamedTuple):
    """How logits change past the training length."""

    exponent: float
    slope: float


class Reader:
    """A wavelet model with log_n that reads one sequence at a time, with any ``Form``."""

    def __init__(self, path: Path, near_keys: int) -> None:
        self.model = WaveletLlamaForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()
        self.config: WaveletLlamaConfig = self.model.config
        self.near_keys = near_keys
        parameters = self.config.position_table_parameters
        self.table = shared_position_table(**parameters, max_distance=2**20, least_rows=near_keys)

    @torch.inference_mode()
    def hidden(self, ids: torch.Tensor, form: Form) -> torch.Tensor:
        """``[T, hidden]``, what the head reads, of token ids ``[T]``."""
        x = self.model.model.embed_tokens(ids)
        factor = self._factor(torch.arange(1, len(ids) + 1).double(), form.exponent)[:, None, None]
        for layer in self.model.model.layers:
            attention, normed = layer.self_attn, layer.input_layernorm(x)
            q, k, v = (part(normed) for part in (attention.q_proj, attention.k_proj, attention.v_proj))
            q, k, v = (part.unflatten(1, (-1, self.config.head_dim)) for part in (q, k, v))
            out = self._attend((q * factor).to(q.dtype), k, v, form.slope)
            x = x + attention.o_proj(out.flatten(1))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return self.model.model.norm(x)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Float32, of rows of ``hidden``."""
        with torch.inference_mode():
            return self.model.lm_head(hidden).float()

    def _factor(self, n: torch.Tensor, exponent: float) -> torch.Tensor:
        length, begin = self.config.train_length, self.config.log_n_length
        assert length is not None
        assert begin is not None
        trained = (n.clamp(max=length).log() / math.log(begin)).clamp(min=1)
        return trained * (n.log() / math.log(length)).clamp(min=1) ** exponent

    def _attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, slope: float) -> torch.Tensor:
        tokens = len(q)
        pad = (0, 0, 0, 0, 0, -tokens % BLOCK)
        k, v = (torch.nn.functional.pad(part, pad).unflatten(0, (-1, BLOCK)) for part in (k, v))
        starts, lengths = torch.tensor([0, tokens], dtype=torch.int32), torch.tensor([tokens], dtype=torch.int32)
        blocks = torch.arange(k.shape[0], dtype=torch.int32)[None]
        near_bias = NearBias(slope, self.config.train_length or 1, self.near_keys) if slope else None
        scale = self.config.head_dim**-0.5
        return wavelet_attention(q, k, v, blocks, starts, lengths, self.table, scale, near_bias)


def loss_by_octave(reader: Reader, ids: torch.Tensor, form: Form) -> dict[str, float]:
    """Nats per token, by the octave's end."""
    hidden = reader.hidden(ids[:-1], form)
    losses = torch.cat(
        [
            cross_entropy(reader.logits(rows), targets, reduction="none")
            for rows, targets in zip(hidden.split(4096), ids[1:].split(4096), strict=True)
        ]
    )
    ends = [2**power for power in range(9, len(ids).bit_length())]
    return {str(end): round(float(losses[end // 2 : end].mean()), 4) for end in ends}


def document(task: str, tokens: int, number: int, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Prompt and answer of the longest example found of at most so many tokens."""
    size, tried, best = 8, set(), None
    while size not in tried:
        tried.add(size)
        draw = random.Random(f"far/{task}/{tokens}/{number}/{size}")  # noqa: S311 - a test item, not a secret
        example = TASKS[task](size, draw)
        prompt = tokenizer.encode(example.prompt, add_special_tokens=False).ids
        room = tokens - example.answer_characters
        if len(prompt) <= room and (best is None or len(prompt) > len(best[0])):
            best = prompt, " " + ", ".join(example.expected) + ".\n"
        size = max(1, size * room // len(prompt))
    assert best is not None
    return best[0], tokenizer.encode(best[1], add_special_tokens=False).ids


def look_ups(reader: Reader, documents: list[tuple[list[int], list[int]]], form: Form) -> dict[str, Any]:
    """How many answers are right in every token, and their nats per token."""
    right, nats = 0, 0.0
    for prompt, answer in documents:
        hidden = reader.hidden(torch.tensor([*prompt, *answer[:-1]]), form)
        logits, expected = reader.logits(hidden[-len(answer) :]), torch.tensor(answer)
        right += bool((logits.argmax(-1) == expected).all())
        nats += float(cross_entropy(logits, expected)) / len(documents)
    return {"right": right, "of": len(documents), "nats": round(nats, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=DEMO)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=32768, help="of text; 0 leaves the loss out")
    parser.add_argument("--exponents", type=float, nargs="*", default=[0, 0.5, 1.5])
    parser.add_argument("--slopes", type=float, nargs="*", default=[0, 0.2, 0.3, 0.5])
    parser.add_argument("--near-keys", type=int, default=768)
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=["vt", "niah_multikey_2"])
    parser.add_argument("--multiple", type=int, default=16, help="of the training length, that the tasks take")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    reader = Reader(options.model, options.near_keys)
    tokenizer = Tokenizer.from_file(str(options.model / "tokenizer.json"))
    text = tokenizer.encode(options.text.read_text(encoding="utf-8"), add_special_tokens=False).ids
    end = reader.config.eos_token_id
    ids = torch.tensor([end, *text[: options.tokens]])
    length = options.multiple * (reader.config.train_length or 1)
    asked = {
        task: [document(task, length, number, tokenizer) for number in range(options.trials)] for task in options.tasks
    }
    forms = [*(Form(exponent, 0.0) for exponent in options.exponents), *(Form(1.0, slope) for slope in options.slopes)]
    rows = []
    for form in forms:
        began = time.perf_counter()
        row: dict[str, Any] = form._asdict()
        if options.tokens:
            row["nats_by_octave"] = loss_by_octave(reader, ids, form)
        if form.exponent == 1:
            row |= {task: look_ups(reader, documents, form) for task, documents in asked.items()}
        rows.append(row | {"seconds": round(time.perf_counter() - began)})
        print(json.dumps(rows[-1]), flush=True)
    if options.output:
        result = {
            "command": "python -m benchmarks.quality.far_logits " + shlex.join(sys.argv[1:]),
            "text": options.text.name,
            "tokens": options.tokens,
            "near_keys": options.near_keys,
            "task_tokens": length,
            "machine": machine(),
            "torch": version("torch"),
            "rows": rows,
        }
        options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
