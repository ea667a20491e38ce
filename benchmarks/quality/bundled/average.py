"""Averages the weights of checkpoints that were trained on from one start.

    python -m benchmarks.quality.bundled.average wave-demo:0.5 runs/sharp0:0.25 runs/sharp1:0.25 --out runs/average

Config and tokenizer are the first one's.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def part(text: str) -> tuple[Path, float]:
    """A checkpoint and its share of the average."""
    path, _, share = text.rpartition(":")
    return Path(path), float(share)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="+", type=part, metavar="CHECKPOINT:SHARE")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    total = sum(share for _, share in options.parts)
    if abs(total - 1) > 1e-6:
        parser.error(f"the shares add up to {total}, not to 1")
    mixed: dict[str, torch.Tensor] = {}
    for path, share in options.parts:
        for name, value in load_file(path / "model.safetensors").items():
            mixed[name] = mixed.get(name, 0.0) + share * value.float()
    first = options.parts[0][0]
    shutil.copytree(first, options.out, ignore=shutil.ignore_patterns("model.safetensors"))
    weights = {name: value.to(torch.bfloat16).contiguous() for name, value in mixed.items()}
    save_file(weights, options.out / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
