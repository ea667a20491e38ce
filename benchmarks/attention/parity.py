"""Parity of the Triton kernels on random ragged shapes: bfloat16, float16, a float8 cache, and prompts in two parts
with vLLM's FlashAttention where it is, against float64.

    python -m benchmarks.attention.parity [--shapes 200] [--seed 0] [--workers N] [--output FILE]

Each shape draws lengths, query counts, heads, head size, block size, table and scales; what the kernels are compiled
for, head size, block size and group, is drawn once for ``SHARED`` shapes. Unused cache slots and the output before the
call are NaN. The bound is the one of the benchmark, ``case.allowed_error``. Exits 1, with the seed of each shape that
fails.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import sys
from pathlib import Path

import torch
import triton

from benchmarks.attention.case import allowed_error
from model_registry.attention import NearBias, wavelet_attention
from model_registry.attention.batch import PagedBatch
from model_registry.attention.triton.configuration import near_tile
from model_registry.attention.triton.near_table import near_table
from model_registry.attention.triton.op import paged_attention
from model_registry.attention.triton.split import PlainAttention, make_split
from model_registry.positions.wavelet import position_table, wavelet_names

NAN = float("nan")
TYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8 cache": torch.bfloat16,
    "bf16 in two parts": torch.bfloat16,
    "fp16 in two parts": torch.float16,
}
HEAD_SIZES = (32, 64, 80, 96, 112, 128, 192, 256)
GROUPS = (1, 2, 3, 4, 7)
EXPONENTS = ((0, 8), (2, 10), (0, 16))
MOST_QUERIES = 700
"""Of a sequence: the float64 reference holds all scores at once."""
SHARED = 8
"""Shapes that share compiled kernels: compiling takes longer than all else."""
BIASED = 0.4
"""Share of the shapes whose near keys have a bonus."""


def table_of(d: int, draw: random.Random, longest: int) -> torch.Tensor:
    """A wavelet table cut to a random length, and to ``d`` columns where the scales do not divide the head size."""
    first, last = draw.choice(EXPONENTS)
    scales = [*range(first, last)]
    table = position_table(draw.choice(wavelet_names()), scales, [*range(-(-d // len(scales)))], max_distance=longest)
    return table[: draw.choice([1, 7, 100, longest, longest]), :d].contiguous()


def rounded_reference(case: dict, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Exact output in float64, and the same with table, weights and output rounded to ``dtype``."""

    def dense(rounding: bool) -> torch.Tensor:
        def round_(x: torch.Tensor) -> torch.Tensor:
            return x.to(dtype).double() if rounding else x

        out = torch.zeros(case["q"].shape, dtype=torch.float64, device=case["q"].device)
        table = torch.nn.functional.pad(round_(case["table"].double()), (0, 0, 0, 1))
        starts, block = case["query_start_loc"].tolist(), case["k_cache"].shape[1]
        for s, length in enumerate(case["seq_lens"].tolist()):
            q = case["q"][starts[s] : starts[s + 1]].double()
            if length == 0 or q.shape[0] == 0:
                continue
            blocks = case["block_table"][s, : -(-length // block)].long()
            k, v = (case[name][blocks].flatten(0, 1)[:length].double() for name in ("k_cache", "v_cache"))
            k, v = k * case["k_factor"], v * case["v_factor"]
            group = q.shape[1] // k.shape[1]
            k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
            t = torch.arange(length - q.shape[0], length, device=q.device)[:, None]
            t = t - torch.arange(length, device=q.device)
            position = torch.einsum("mhd,td->hmt", q, table)
            position = position.gather(2, t.clamp(0, table.shape[0] - 1).expand(q.shape[1], *t.shape))
            score = (torch.einsum("mhd,nhd->hmn", q, k) + position) * case["scale"]
            if case["near_bias"] is not None:
                seen = t[:, :1].double() + 1
                score = score + torch.where(t < case["near_bias"].keys, case["near_bias"].of(seen), 0.0)
            score = score.masked_fill(t < 0, -torch.inf)
            weight = torch.exp(score - score.amax(-1, keepdim=True))
            total = weight.sum(-1, keepdim=True)
            out[starts[s] : starts[s + 1]] = round_((round_(weight) / total @ v.transpose(0, 1)).transpose(0, 1))
        return out

    return dense(False), dense(True)


def random_case(seed: int, kind: str, device: str, longest: int) -> dict:
    draw, dtype = random.Random(seed), TYPES[kind]  # noqa: S311
    generator = torch.Generator(device=device).manual_seed(seed)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator, device=device).to(dtype)

    compiled = random.Random(f"{kind} {seed // SHARED}")  # noqa: S311
    d, block, group = compiled.choice(HEAD_SIZES), compiled.choice([16, 32, 48, 64, 128]), compiled.choice(GROUPS)
    kv_heads = draw.choice([1, 2, 4])
    lengths = [draw.choice([0, 1, draw.randint(1, 64), draw.randint(1, longest)]) for _ in range(draw.randint(1, 6))]
    counts = [min(n, draw.choice([0, 1, 1, 2, draw.randint(1, 64), MOST_QUERIES])) for n in lengths]
    blocks = [-(-n // block) for n in lengths]
    kv = torch.full((sum(blocks) + 1, kv_heads, block, 2 * d), NAN, dtype=dtype, device=device)
    order = torch.randperm(sum(blocks) + 1).tolist()
    block_table = torch.full((len(lengths), max(blocks) + 1), -7, dtype=torch.int32)
    for s, n in enumerate(lengths):
        for i in range(blocks[s]):
            block_table[s, i] = order.pop()
            used = min(block, n - i * block)
            kv[block_table[s, i], :, :used] = normal(kv_heads, used, 2 * d)
    float8 = kind == "fp8 cache"
    if float8:
        kv = kv.to(torch.float8_e4m3fn)
    starts = torch.tensor([0, *counts]).cumsum(0).to(torch.int32)
    table = table_of(d, draw, longest).to(device)
    near_bias = None
    if compiled.random() < BIASED:
        near_bias = NearBias(draw.uniform(0.1, 2), draw.randint(1, longest), draw.randint(1, table.shape[0]))
    return {
        "q": normal(sum(counts), kv_heads * group, d),
        "k_cache": kv[..., :d].transpose(1, 2),
        "v_cache": kv[..., d:].transpose(1, 2),
        "block_table": block_table.to(device),
        "query_start_loc": starts.to(device),
        "seq_lens": torch.tensor(lengths, dtype=torch.int32, device=device),
        "table": table,
        "scale": d**-0.5,
        "near_bias": near_bias,
        "k_factor": draw.uniform(0.2, 2) if float8 else 1.0,
        "v_factor": draw.uniform(0.2, 2) if float8 else 1.0,
    }


def plain_attention(device: str) -> PlainAttention:
    """vLLM's FlashAttention where it is, and else attention in float32 with PyTorch's operators."""
    if device == "cuda":
        try:
            from vllm.v1.attention.backends.fa_utils import get_flash_attn_version

            from model_registry.vllm_plugin.flash import FlashAttention
        except ImportError:
            return attend_in_float32
        version = get_flash_attn_version()
        if version is not None:
            return FlashAttention(version)
    return attend_in_float32


def attend_in_float32(batch: PagedBatch, out: torch.Tensor, max_query_len: int, max_seq_len: int) -> torch.Tensor:
    """A ``PlainAttention`` for any device; it waits for the device and holds all scores of a sequence."""
    del max_query_len, max_seq_len
    lse = torch.full((batch.q.shape[1], batch.q.shape[0]), torch.inf, device=out.device)
    starts, block = batch.query_start_loc.tolist(), batch.k_cache.shape[1]
    for s, keys in enumerate(batch.seq_lens.tolist()):
        rows = slice(starts[s], starts[s + 1])
        q = batch.q[rows].float()
        if keys == 0 or q.shape[0] == 0:
            continue
        blocks = batch.block_table[s, : -(-keys // block)].long()
        k, v = (cache[blocks].flatten(0, 1)[:keys].float() for cache in (batch.k_cache, batch.v_cache))
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        m, n = (torch.arange(first, keys, device=out.device) for first in (keys - q.shape[0], 0))
        hidden = n > m[:, None]
        score = torch.einsum("mhd,nhd->hmn", q, k).masked_fill(hidden, -torch.inf) * batch.scale
        lse[:, rows] = score.logsumexp(-1)
        out[rows] = torch.einsum("hmn,nhd->mhd", score.softmax(-1), v).to(out.dtype)
    return lse


def near_keys_of_the_kernel(batch: PagedBatch) -> PagedBatch:
    """The batch with a bonus for as many keys as the near kernel attends to, and rows of zeros for those."""
    (count, d), group = batch.table.shape, batch.q.shape[1] // batch.k_cache.shape[2]
    rows = near_table(batch.table, batch.q.dtype, near_tile(d, batch.q.element_size(), group)).rows
    table = torch.nn.functional.pad(batch.table, (0, 0, 0, max(0, rows - count)))
    return batch._replace(table=table, near_bias=batch.near_bias._replace(keys=rows))


def check_shared(task: tuple[range, str, str, int]) -> list[dict]:
    """``check`` of shapes that share kernels, in this process."""
    seeds, *rest = task
    return [check(seed, *rest) for seed in seeds]


def check(seed: int, kind: str, device: str, longest: int) -> dict:
    case = random_case(seed, kind, device, longest)
    batch = PagedBatch(*(case[name] for name in PagedBatch._fields))
    out = torch.full_like(case["q"], NAN)
    if kind == "fp8 cache":
        k_scale, v_scale = (torch.tensor(case[name], device=device) for name in ("k_factor", "v_factor"))
        case |= {"k_factor": float(k_scale), "v_factor": float(v_scale)}
        paged_attention(batch, out, k_scale=k_scale, v_scale=v_scale)
    elif kind.endswith("in two parts"):
        group = batch.q.shape[1] // batch.k_cache.shape[2]
        if batch.near_bias is not None:
            batch = near_keys_of_the_kernel(batch)
            case |= {"table": batch.table, "near_bias": batch.near_bias}
        split = make_split(plain_attention(device), batch.table, batch.q.dtype, group, batch.near_bias)
        paged_attention(batch, out, split=split)
    else:
        wavelet_attention(*batch, out=out, impl="triton")
    exact, rounded = rounded_reference(case, out.dtype)
    result = {"seed": seed, "kind": kind, "d": case["q"].shape[2], "R": case["table"].shape[0]}
    result |= {"near_keys": case["near_bias"] and case["near_bias"].keys}
    if out.numel() == 0:
        return result | {"error": 0.0, "allowed": 0.0, "parity": True}
    error = float((out.double() - exact).abs().max())
    allowed = allowed_error(exact, rounded, out.dtype)
    return result | {"error": error, "allowed": allowed, "parity": error <= allowed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", type=int, default=200, help="of each element type")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=int, default=3000, help="keys of a sequence")
    parser.add_argument("--workers", type=int, default=1, help="processes, which compile side by side")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    interpreted = triton.knobs.runtime.interpret
    device = "cpu" if interpreted else triton.runtime.driver.active.get_active_torch_device().type
    last = options.seed + options.shapes
    starts = range(options.seed, last, SHARED)
    tasks = [
        (range(start, min(start + SHARED, last)), kind, device, options.longest) for kind in TYPES for start in starts
    ]
    if options.workers == 1:
        results = [result for task in tasks for result in check_shared(task)]
    else:
        with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
            results = [result for checked in pool.imap(check_shared, tasks, chunksize=1) for result in checked]
    for kind in TYPES:
        mine = [r for r in results if r["kind"] == kind]
        worst = max((r["error"] / r["allowed"] for r in mine if r["allowed"]), default=0.0)
        print(f"{kind:10} {sum(r['parity'] for r in mine)} of {len(mine)} in bounds, worst {worst:.2f} of its bound")
    failed = [r for r in results if not r["parity"]]
    for result in failed:
        print("FAILED", result)
    if options.output:
        options.output.write_text(json.dumps({"interpreted": interpreted, "results": results}, indent=1) + "\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
