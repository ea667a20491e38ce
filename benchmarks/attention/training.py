"""Attention for training: FlexAttention with the position term against the dense formula, on one GPU.

    python -m benchmarks.attention.training --out runs/training.json

Values and gradients at ragged lengths in float32 and bfloat16, both held against the dense formula in float64; then
peak memory and time of a forward and backward pass at 16,384 tokens (the dense one is measured at 4,096 and, its
memory being quadratic, at 16,384 where it fits).
"""

import argparse
import json
import time
from pathlib import Path

import torch
from torch.nn.attention.flex_attention import create_block_mask

from model_registry.dense_attention import dense_attention, rows_by_key
from model_registry.flex_attention import attend
from model_registry.positions.alibi import alibi_slopes
from model_registry.positions.wavelet import position_table

HEADS, KV_HEADS, HEAD_DIM = 4, 2, 64
TABLE = position_table("ricker", list(range(8)), list(range(8)))


def causal(_b: torch.Tensor, _h: torch.Tensor, m: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    return m >= n


def draw(length: int, dtype: torch.dtype, batch: int = 2) -> list[torch.Tensor]:
    """q, k, v, and the gradient of the output."""
    generator = torch.Generator("cuda").manual_seed(length)
    shapes = [(batch, heads, length, HEAD_DIM) for heads in (HEADS, KV_HEADS, KV_HEADS, HEADS)]
    return [torch.randn(shape, generator=generator, device="cuda", dtype=torch.float64).to(dtype) for shape in shapes]


def dense(parts: list[torch.Tensor], position: str) -> list[torch.Tensor]:
    q, k, v, gradient = (part.clone().requires_grad_(number < 3) for number, part in enumerate(parts))
    length = q.shape[2]
    at = torch.arange(length, device="cuda")
    visible = (at[:, None] >= at)[None, None]
    rows = bias = None
    if position == "wavelet":
        rows = rows_by_key(TABLE.to(q), length, length, 0)
    elif position == "alibi":
        slopes = torch.tensor(alibi_slopes(HEADS), device="cuda")
        bias = -slopes[:, None, None] * (at[:, None] - at)
    out, _ = dense_attention(q, k, v, visible, HEAD_DIM**-0.5, rows=rows, bias=bias)
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), gradient)]


def flex(parts: list[torch.Tensor], position: str) -> list[torch.Tensor]:
    q, k, v, gradient = (part.clone().requires_grad_(number < 3) for number, part in enumerate(parts))
    length = q.shape[2]
    mask = create_block_mask(causal, None, None, length, length, device="cuda")
    table = TABLE.to(q) if position == "wavelet" else None
    slopes = torch.tensor(alibi_slopes(HEADS), device="cuda") if position == "alibi" else None
    out = attend(q, k, v, mask, HEAD_DIM**-0.5, table=table, slopes=slopes)
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), gradient)]


def check(length: int, dtype: torch.dtype, position: str) -> dict:
    """Root-mean-square errors of both, relative to the float64 result, of output and gradients."""
    parts = draw(length, dtype)
    exact = dense([part.double() for part in parts], position)

    def errors(found: list[torch.Tensor]) -> list[float]:
        return [((a.double() - b).norm() / b.norm()).item() for a, b in zip(found, exact, strict=True)]

    ours, formula = errors(flex(parts, position)), errors(dense(parts, position))
    names = ("out", "dq", "dk", "dv")
    return {
        "length": length, "dtype": str(dtype), "position": position,
        "flex": dict(zip(names, ours, strict=True)), "dense": dict(zip(names, formula, strict=True)),
    }  # fmt: skip


def cost(run, length: int) -> dict:  # noqa: ANN001 - dense or flex
    """Peak memory beyond the inputs, and seconds, of a forward and backward pass."""
    parts = draw(length, torch.bfloat16, batch=1)
    run(parts, "wavelet")
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before, began = torch.cuda.memory_allocated(), time.perf_counter()
    run(parts, "wavelet")
    torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    return {"length": length, "megabytes": (torch.cuda.max_memory_allocated() - before) / 1e6, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    document: dict = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "checks": [], "costs": {}}
    cases = [(torch.float32, 333, "wavelet"), (torch.bfloat16, 333, "wavelet"), (torch.bfloat16, 1027, "wavelet"),
             (torch.bfloat16, 333, "alibi")]  # fmt: skip
    for dtype, length, position in cases:
        began = time.perf_counter()
        found = check(length, dtype, position)
        # A kernel may be off by twice what the dense formula is in the same dtype, and by float32's rounding.
        bad = [name for name, error in found["flex"].items() if error > 2 * found["dense"][name] + 1e-5]
        found["right"] = not bad
        document["checks"].append(found)
        print(f"{time.perf_counter() - began:.1f} s", json.dumps(found), flush=True)
        options.out.write_text(json.dumps(document, indent=1))
    for name, run, length in (("flex", flex, 16384), ("dense", dense, 4096), ("dense", dense, 16384)):
        found = cost(run, length)
        document["costs"].setdefault(name, []).append(found)
        print(name, json.dumps(found), flush=True)
        options.out.write_text(json.dumps(document, indent=1))
    share = document["costs"]["flex"][0]["megabytes"] / document["costs"]["dense"][-1]["megabytes"]
    print(f"memory at 16,384 tokens: {share:.3f} of the dense formula's")
    if not all(found["right"] for found in document["checks"]) or share >= 0.1:
        raise SystemExit("FlexAttention is not within its bounds")


if __name__ == "__main__":
    main()
