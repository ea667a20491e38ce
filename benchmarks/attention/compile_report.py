"""Compiles the Triton attention kernels for a GPU, without having one, and reports what each would use of it.

    python -m benchmarks.attention.compile_report [--output benchmarks/results/triton_sm90_resources.json]

For every head size and element type, with the tiles of ``configuration``: registers a thread, spills to local
memory, and shared memory of a program, as the assembler of the installed Triton says, and whether it serialises the
products on tensor cores (its message C7510 and those after it). Exits 1 if anything spills or is serialised. The
arguments are typed as an engine gives them: bfloat16, contiguous dimensions, strides that are multiples of 16.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import sys
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from model_registry.attention.triton.configuration import (
    MOST_PARTS,
    NearTile,
    Tile,
    for_target,
    near_tile_for_target,
    padded,
)
from model_registry.attention.triton.decode import decode_kernel, merge_kernel
from model_registry.attention.triton.key_rows import ENTRIES
from model_registry.attention.triton.near import near_kernel
from model_registry.attention.triton.prefill import prefill_kernel

ARCH = 90
HEAD_SIZES = (32, 64, 80, 96, 112, 128, 192, 256)
ELEMENTS = {"bf16": ("bf16", "bf16"), "bf16 q, fp8 cache": ("bf16", "fp8e4nv"), "fp32": ("fp32", "fp32")}
GROUP, BLOCK_SIZE = 4, 16
REGISTERS = re.compile(r"Used (\d+) registers")
SERIALIZED = re.compile(r"wgmma\.mma_async instructions are serialized")
SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")


def source(kernel: Any, pointers: dict[str, str], constants: dict[str, Any]) -> ASTSource:
    """``kernel`` with its arguments typed: ``pointers`` by name, unit strides as constants, the rest as int32."""
    constants = constants | {name: 1 for name in kernel.arg_names if name.endswith("_dim")}
    signature: dict[str, str] = {}
    aligned = {}
    for i, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name in pointers:
            signature[name] = f"*{pointers[name]}"
            aligned[(i,)] = [["tt.divisibility", 16]]
        elif name in ("scale_log2", "bias_slope", "bias_length"):
            signature[name] = "fp32"
        else:
            signature[name] = "i32"
            multiple = name in ("R", "exact_keys", "exact_rows", "pitch") and kernel is near_kernel
            if multiple or (name.startswith("stride_") and name != "stride_block_table"):
                aligned[(i,)] = [["tt.divisibility", 16]]
    return ASTSource(kernel, signature, constants, aligned)


def resources(kernel: Any, pointers: dict[str, str], constants: dict[str, Any], warps: int) -> dict[str, Any]:
    """Registers, spills and shared memory of one compiled kernel."""
    log = io.StringIO()
    with contextlib.redirect_stdout(log):  # Triton prints what the assembler says
        compiled = triton.compile(
            source(kernel, pointers, constants), target=GPUTarget("cuda", ARCH, 32), options={"num_warps": warps}
        )
    log = log.getvalue()
    registers, spills = REGISTERS.search(log), SPILLS.search(log)
    assert registers, log
    assert spills, log
    return {
        "registers": int(registers[1]),
        "spilled_bytes": int(spills[1]) + int(spills[2]),
        "shared_bytes": compiled.metadata.shared,
        "serialized": bool(SERIALIZED.search(log)),
        "wgmma": compiled.asm["ptx"].count("wgmma.mma_async"),
        "cp_async": compiled.asm["ptx"].count("cp.async.cg"),
        "warps": warps,
    }


def attention_arguments(
    head_size: int, query: str, cache: str, tile: Tile, positions: bool, biased: bool
) -> tuple[dict, dict]:
    pointers = {
        "q": query,
        "k_cache": cache,
        "v_cache": cache,
        "table": query,
        "out": query,
        "k_scale": "fp32",
        "v_scale": "fp32",
        "part_out": "fp32",
        "part_lse": "fp32",
    } | dict.fromkeys(("block_table", "query_start_loc", "seq_lens"), "i32")
    constants = {
        "GROUP": GROUP,
        "HEAD_SIZE": head_size,
        "D": padded(head_size),
        "BLOCK_SIZE": BLOCK_SIZE,
        "BLOCK_M": tile.m,
        "BLOCK_N": tile.n,
        "STAGES": tile.stages,
        "SCALED": query != cache,
        "BIASED": biased,
        "POSITIONS": positions,
    }
    return pointers, constants


def near_arguments(
    head_size: int, query: str, cache: str, tile: NearTile, far: bool, biased: bool
) -> tuple[dict, dict]:
    pointers, constants = attention_arguments(
        head_size, query, cache, Tile(tile.m, tile.n, tile.warps, tile.stages), True, biased
    )
    for name in ("table", "part_out", "part_lse", "block_table"):
        del pointers[name]
    del constants["POSITIONS"], constants["BLOCK_SIZE"]
    pointers |= {"keys": "i32", "values": "i32"}
    terms = "fp32" if query == "fp32" else "fp16"
    pointers |= {"exact": query, "waves": query, "turn": "fp32"}
    pointers |= {"curves": terms, "strips": terms, "far_lse": "fp32"}
    constants |= {"HEADS": tile.heads, "BLOCK_T": tile.t, "T_STAGES": tile.t_stages}
    return pointers, constants | {"SAME_ROWS": True, "FAR": far, "ENTRIES": ENTRIES, "UNIT": 16}


def report(head_sizes: list[int], elements: list[str]) -> list[dict[str, Any]]:
    rows = []
    for head_size, element in product(head_sizes, elements):
        query, cache = ELEMENTS[element]
        tiles = for_target("cuda", ARCH, head_size, 4 if query == "fp32" else 2)
        for (kernel, tile), (positions, biased) in product(
            ((prefill_kernel, tiles.prefill), (decode_kernel, tiles.decode)),
            ((True, False), (True, True), (False, False)),
        ):
            pointers, constants = attention_arguments(head_size, query, cache, tile, positions, biased)
            constants |= {"SPLIT": True} if kernel is decode_kernel else {"NEAR_N": tiles.near}
            row = {"kernel": kernel.__name__, "head_size": head_size, "elements": element, "positions": positions}
            row |= {"biased": biased}
            row |= {"tile": [tile.m, tile.n], "stages": tile.stages}
            row |= {"near": tiles.near} if kernel is prefill_kernel else {}
            rows.append(row | resources(kernel, pointers, constants, tile.warps))
            print(rows[-1], flush=True)
        near = near_tile_for_target("cuda", ARCH, head_size, 2)
        # Engines attend in two parts with queries of 16 bits and a cache of their type only.
        for far, biased in ((True, False), (True, True), (False, False)) if element == "bf16" else ():
            pointers, constants = near_arguments(head_size, query, cache, near, far, biased)
            row = {"kernel": near_kernel.__name__, "head_size": head_size, "elements": element, "after_far": far}
            row |= {"biased": biased}
            rows.append(row | asdict(near) | resources(near_kernel, pointers, constants, near.warps))
            print(rows[-1], flush=True)
        constants = {"HEAD_SIZE": head_size, "D": padded(head_size), "MOST_PARTS": MOST_PARTS}
        pointers = {"query_start_loc": "i32", "out": query, "part_out": "fp32", "part_lse": "fp32"}
        row = {"kernel": merge_kernel.__name__, "head_size": head_size, "elements": element}
        rows.append(row | resources(merge_kernel, pointers, constants, tiles.decode.warps))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--head-sizes", type=int, nargs="+", default=list(HEAD_SIZES))
    parser.add_argument("--elements", nargs="+", choices=ELEMENTS, default=list(ELEMENTS))
    options = parser.parse_args()
    triton.knobs.nvidia.dump_ptxas_log = True
    triton.knobs.compilation.always_compile = True  # a kernel from the cache has no assembler's log
    rows = report(options.head_sizes, options.elements)
    if options.output:
        lines = ",\n  ".join(json.dumps(row) for row in rows)
        target = json.dumps({"target": f"sm_{ARCH}a", "triton": triton.__version__})
        options.output.write_text(f'{target[:-1]},\n "kernels": [\n  {lines}\n]}}\n')
    spilled, serialized = (sum(bool(row[fault]) for row in rows) for fault in ("spilled_bytes", "serialized"))
    print(f"{len(rows)} kernels, {spilled} spill, {serialized} serialise their products")
    sys.exit(1 if spilled or serialized else 0)


if __name__ == "__main__":
    main()
