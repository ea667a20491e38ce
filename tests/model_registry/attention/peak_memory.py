"""Writes out the growth of peak resident memory, in bytes, over one 512-token chunk at a 32k context. A script: the
peak of a process counts all that it did before, so the measurement needs a process of its own.

usage: peak_memory.py R IMPL
"""

import sys
from pathlib import Path

import torch

from model_registry.attention import wavelet_attention

H, H_KV, D, BLOCK, CONTEXT, CHUNK = 8, 2, 64, 128, 32768, 512


def status(field: str) -> int:
    # Not getrusage: its maximum survives exec, so a child of a large process starts from its parent's peak.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def attend(kv: torch.Tensor, table: torch.Tensor, context: int, chunk: int) -> torch.Tensor:
    blocks = torch.arange(context // BLOCK, dtype=torch.int32)[None]
    q = torch.empty(chunk, H, D, dtype=torch.bfloat16).normal_()
    return wavelet_attention(
        q,
        kv[..., :D].permute(0, 2, 1, 3),
        kv[..., D:].permute(0, 2, 1, 3),
        blocks,
        torch.tensor([0, chunk], dtype=torch.int32),
        torch.tensor([context], dtype=torch.int32),
        table,
        D**-0.5,
        impl=sys.argv[2],
    )


kv = torch.empty(CONTEXT // BLOCK, H_KV, BLOCK, 2 * D, dtype=torch.bfloat16).normal_()
table = torch.empty(int(sys.argv[1]), D).normal_()
# Far and near keys and their merge, so that the libraries' code is loaded: its pages count as resident too.
attend(kv, table, context=1152, chunk=136)
before = status("VmRSS")
attend(kv, table, CONTEXT, CHUNK)
sys.stdout.write(str(status("VmHWM") - before))
