"""On a CPU: memory of FlexAttention with the position term beside that of dense attention, values beside it.

    python -m benchmarks.attention.flex_memory --tokens 16384 --out benchmarks/results/flex_memory.json

One sequence, one head of 64, float32, each kind in a process of its own, forward alone: PyTorch has no backward pass of
FlexAttention on a CPU (``training`` measures both on a GPU). Memory is the process's peak over what it held before,
compiled at another length first, so that the compiler's own is not counted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from benchmarks.servers import machine
from model_registry import flex_attention as ours
from model_registry.dense_attention import dense_attention, rows_by_key
from model_registry.positions.shared_table import shared_position_table

KINDS = ("dense", "flex")
D = 64
WARM_UP_TOKENS = 512


@torch.inference_mode()
def attention(kind: str, tokens: int) -> torch.Tensor:
    """Output ``[1, 1, tokens, D]`` of seeded inputs."""
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 1, tokens, D, generator=draw) for _ in range(3))
    table = shared_position_table("ricker", range(8), range(8), max_distance=tokens)
    if kind == "dense":
        visible = torch.ones(tokens, tokens, dtype=torch.bool).tril()[None, None]
        return dense_attention(q, k, v, visible, D**-0.5, rows=rows_by_key(table, tokens, tokens, 0))[0]
    build = torch.compile(create_block_mask)
    mask = build(lambda _b, _h, query, key: query >= key, None, None, tokens, tokens, device="cpu")
    return ours.attend(q, k, v, mask, D**-0.5, table=table)


def peak_mib() -> float:
    """The most memory that this process has held."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def measure(kind: str, tokens: int, output: Path) -> None:
    """Prints one JSON line and writes the output."""
    # `attend` compiles on a GPU alone: without a backward pass there is no training on a CPU.
    setattr(ours, "flex_attention", torch.compile(flex_attention, dynamic=False))  # noqa: B010 - mypy knows its type
    attention(kind, WARM_UP_TOKENS)
    before, began = peak_mib(), time.monotonic()
    out = attention(kind, tokens)
    print(json.dumps({"mib": round(peak_mib() - before, 1), "seconds": round(time.monotonic() - began, 1)}))
    torch.save(out, output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--measure", nargs=2, metavar=("KIND", "OUTPUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure[0], options.tokens, Path(options.measure[1]))
        return
    found, outputs = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            output = Path(folder) / kind
            command = [sys.executable, "-m", "benchmarks.attention.flex_memory", "--tokens", str(options.tokens)]
            command += ["--out", str(options.out), "--measure", kind, str(output)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[kind] = json.loads(done.stdout.splitlines()[-1])
            outputs[kind] = torch.load(output)
    document = {
        "command": "python -m benchmarks.attention.flex_memory " + " ".join(sys.argv[1:]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"torch": version("torch"), "wave-serve": version("wave-serve")},
        "machine": machine(),
        "what": f"1 x 1 x {options.tokens} x {D}, float32, forward",
        **found,
        "ratio": round(found["flex"]["mib"] / found["dense"]["mib"], 4),
        "largest_difference": float((outputs["flex"] - outputs["dense"]).abs().max()),
    }
    options.out.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document))


if __name__ == "__main__":
    main()
