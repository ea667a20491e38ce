"""Loss by length of a checkpoint and of what it was converted to: the same held-out tokens at every length, dense.

    python -m benchmarks.quality.converted --text runs/prose/held_out.txt --model rope=~/models/SmolLM2-135M-Instruct \
        --model wavelet=runs/smol --out benchmarks/results/smollm2.json

The text's windows of the longest length are spread evenly over it; each is cut into pieces, and every piece is read by
itself. ``NAME:yarn4=DIRECTORY`` reads a rope checkpoint with YaRN of factor 4, without training. Rows that the result
file already has are kept, and each new one is written at once.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import model_registry.modeling_wavelet  # noqa: F401 - tells Transformers of wavelet_llama
from benchmarks.servers import machine


def windows_of(text: str, checkpoint: Path, length: int, count: int) -> torch.Tensor:
    """``[count, length]``: stretches of the text's tokens, spread evenly."""
    ids = AutoTokenizer.from_pretrained(checkpoint)(text, verbose=False, add_special_tokens=False).input_ids
    if len(ids) < count * length:
        raise SystemExit(f"the text has {len(ids)} tokens: fewer than {count} x {length}")
    starts = [(len(ids) - length) * i // max(1, count - 1) for i in range(count)]
    return torch.tensor([ids[start : start + length] for start in starts])


def load(checkpoint: Path, yarn: float | None) -> Any:
    """The model in bfloat16; a rope model with its frequencies scaled where a factor is given."""
    config = AutoConfig.from_pretrained(checkpoint)
    attention = "eager" if config.model_type == "wavelet_llama" else "sdpa"
    if yarn is not None:
        config.rope_parameters = config.rope_parameters | {
            "rope_type": "yarn",
            "factor": yarn,
            "original_max_position_embeddings": config.max_position_embeddings,
        }
    return AutoModelForCausalLM.from_pretrained(
        checkpoint, config=config, dtype=torch.bfloat16, attn_implementation=attention
    ).eval()


@torch.inference_mode()
def loss(model: Any, windows: torch.Tensor, length: int) -> float:
    """Nats per token over all pieces of ``length`` tokens, each piece's first token aside."""
    total, tokens = 0.0, 0
    for piece in windows.reshape(-1, length):
        logits = model(piece[None], use_cache=False).logits[0, :-1]
        for part, targets in zip(logits.split(512), piece[1:].split(512), strict=True):
            total += cross_entropy(part.float(), targets, reduction="sum").item()
        tokens += length - 1
    return total / tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", required=True, metavar="NAME[:yarnFACTOR]=DIRECTORY")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--lengths", default="512,1024,2048,4096")
    parser.add_argument("--windows", type=int, default=2, help="of the longest length")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    lengths = [int(length) for length in options.lengths.split(",")]
    rows = json.loads(options.out.read_text())["rows"] if options.out.is_file() else []
    document = {
        "command": "python -m benchmarks.quality.converted " + " ".join(sys.argv[1:]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in ("torch", "transformers", "wave-serve")},
        "machine": machine(),
        "rows": rows,
    }
    for model in options.model:
        name, _, directory = model.partition("=")
        checkpoint = Path(directory).expanduser()
        yarn = float(name.partition(":yarn")[2]) if ":yarn" in name else None
        windows = windows_of(options.text.read_text(), checkpoint, max(lengths), options.windows)
        loaded, began = load(checkpoint, yarn), time.monotonic()
        nats = {str(length): round(loss(loaded, windows, length), 4) for length in lengths}
        row = {"name": name, "windows": options.windows, "nats_per_token": nats}
        rows.append(row | {"seconds": round(time.monotonic() - began, 1)})
        options.out.write_text(json.dumps(document, indent=1) + "\n")
        print(name, nats, flush=True)


if __name__ == "__main__":
    main()
