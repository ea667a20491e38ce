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


def write(like: Path, weights: dict[str, torch.Tensor], out: Path) -> None:
    """A checkpoint of these weights in bfloat16; everything else is that of ``like``."""
    shutil.copytree(like, out, ignore=shutil.ignore_patterns("model.safetensors"))
    weights = {name: value.to(torch.bfloat16).contiguous() for name, value in weights.items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="+", type=part, metavar="CHECKPOINT:SHARE")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    total = sum(share for _, share in options.parts)
    if abs(total - 1) > 1e-6:
        parser.error(f"the shares add up to {total}, not to 1")
    models = [load_file(path / "model.safetensors") for path, _ in options.parts]
    shares = [share for _, share in options.parts]
    mixed = {
        name: sum(share * model[name].float() for model, share in zip(models, shares, strict=True))
        for name in models[0]
    }
    write(options.parts[0][0], mixed, options.out)


if __name__ == "__main__":
    main()
