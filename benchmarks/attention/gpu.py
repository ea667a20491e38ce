"""Time wavelet attention on a GPU against its peers and against the GPU's own ceilings; parity comes first.

    python -m benchmarks.attention.gpu [--output FILE]                    on a GPU; needs torch and triton only
    python -m benchmarks.attention.gpu --minutes 2 --quick                what fits into that; see the options
    TRITON_INTERPRET=1 python -m benchmarks.attention.gpu --smoke         tiny, on the CPU: that it runs, not how fast

A peer that fails parity is reported and not timed. Times are medians of ``triton.testing.do_bench``, which empties the
L2 cache before each call. Bytes are each key and value once, FLOP those of plain causal attention.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import triton

from benchmarks.attention.case import Case, Shape
from benchmarks.attention.peers import PEERS, Call

RESULTS = Path(__file__).parents[1] / "results"
MODELS = {"Llama-3-8B": (32, 8, 128), "Llama-2-7B": (32, 32, 128), "Qwen2.5-7B": (28, 4, 128)}
SMOKE = [Shape("tiny", 4, 2, 32, 2, 70, 1), Shape("tiny", 4, 2, 32, 1, 70, 40)]
REPEAT_MS = 80
MEMORY_SHARE = 0.35
"""Of the device's memory that a cache may take: peers want a contiguous copy, and FlexAttention a table of products."""


# By batch, queries and context of Llama-3-8B's heads: the most that a prompt may take, in times of FlashAttention 3.
PROMPT_TARGETS = {
    (1, 8192, 131072): 1.03,
    (1, 8192, 32768): 1.08,
    (1, 2048, 32768): 1.08,
    (1, 8192, 8192): 1.40,
    (8, 1024, 1024): 2.2,
}
QUICK_PEERS = ("wavelet", "wavelet fused", "flash attention 3", "inkling")
QUICK_MODELS = ("Llama-3-8B", "Inkling")
DECODE_TARGET, DECODE_TARGET_FROM = 1.05, 8192
"""The most that a decode may take, in times of FlashAttention 3, from so many keys on."""
COPY_TARGET = 0.97
"""The least share of the copy bandwidth for a batch of 16 at 32k."""


def is_target(shape: Shape) -> bool:
    """Whether something is asked of the shape."""
    if shape.model != "Llama-3-8B":
        return False
    if shape.queries == 1:
        return shape.context >= DECODE_TARGET_FROM
    return (shape.batch, shape.queries, shape.context) in PROMPT_TARGETS


def shapes() -> list[Shape]:
    """The cases that have targets come first, then the others, the shorter ones earlier."""
    decode = [(16, 32768), (16, 8192), (16, 1024), (1, 8192), (1, 32768), (64, 8192), (16, 131072), (1, 131072)]
    prompts = [*PROMPT_TARGETS, (1, 1024, 1024)]
    ordered = []
    for model, heads in MODELS.items():
        ordered += [Shape(model, *heads, batch, context, queries) for batch, queries, context in prompts]
        ordered += [Shape(model, *heads, batch, context, 1) for batch, context in decode]
    ordered += [Shape("Inkling", 4, 1, 128, 1, context, 1) for context in (65536, 8192)]
    return sorted(ordered, key=lambda shape: (not is_target(shape), shape.batch * shape.context > 2**20))


def targets(entry: dict[str, Any]) -> dict[str, tuple[float | None, bool]]:
    """What is asked of a target case: the figure, None if it is missing, and whether it meets the target."""
    shape, ratio = entry["shape"], entry["ratios"].get("wavelet / flash attention 3")
    if shape["queries"] > 1:
        most = PROMPT_TARGETS[shape["batch"], shape["queries"], shape["context"]]
        return {f"wavelet / flash attention 3 <= {most}": (ratio, ratio is not None and ratio <= most)}
    asked = {
        f"wavelet / flash attention 3 <= {DECODE_TARGET}": (ratio, ratio is not None and ratio <= DECODE_TARGET),
    }
    if (shape["batch"], shape["context"]) == (16, 32768):
        share = entry["peers"]["wavelet"].get("of_copy")
        asked[f"share of the copy bandwidth >= {COPY_TARGET}"] = (share, share is not None and share >= COPY_TARGET)
    return asked


def recorded(call: Call) -> Call:
    """The call as a CUDA graph: an engine replays its decodes so, and no launch waits for Python."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call()

    def replay() -> torch.Tensor:
        graph.replay()
        return out

    return replay


def milliseconds(call: Call, device: str) -> float:
    if device == "cpu":
        start = time.perf_counter()
        call()
        return (time.perf_counter() - start) * 1e3
    return float(triton.testing.do_bench(call, warmup=10, rep=REPEAT_MS, return_mode="median"))


def ceilings(device: str, dtype: torch.dtype, small: bool) -> dict[str, float]:
    """Bytes/s of a copy (read and written) and FLOP/s of a square matrix product, measured now."""
    source = torch.empty(2**20 if small else 2**30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    n = 128 if small else 8192
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    copy = milliseconds(lambda: target.copy_(source), device)
    product = milliseconds(lambda: a @ b, device)
    return {"copy_bytes_per_s": 2 * source.numel() / copy * 1e3, "matmul_flop_per_s": 2 * n**3 / product * 1e3}


def measure(case: Case, device: str, ceiling: dict[str, float], left_out: set[str]) -> dict[str, Any]:
    """Every peer but those ``left_out`` on one case: parity, then milliseconds and the shares of the two ceilings.

    Decodes are timed as replayed CUDA graphs; ``eager_ms`` is what the call took from Python.
    """
    shape, results = case.shape, {}
    moved = shape.bytes_moved(case.q.element_size(), case.kv.element_size())
    for name, (prepare, positions) in PEERS.items():
        if name in left_out:
            continue
        try:
            call = prepare(case)
            error, allowed = case.parity(call(), positions)
        except Exception as reason:
            results[name] = {"unavailable": f"{type(reason).__name__}: {reason}"[:300]}
            continue
        result: dict[str, Any] = {"error": error, "allowed": allowed, "parity": error <= allowed}
        if result["parity"]:
            took = eager = milliseconds(call, device)
            if shape.queries == 1 and device == "cuda" and name != "flex":
                took = milliseconds(recorded(call), device)
            result |= {
                "eager_ms": eager,
                "ms": took,
                "bytes_per_s": moved / took * 1e3,
                "flop_per_s": shape.flop / took * 1e3,
                "of_copy": moved / took * 1e3 / ceiling["copy_bytes_per_s"],
                "of_matmul": shape.flop / took * 1e3 / ceiling["matmul_flop_per_s"],
            }
        results[name] = result
        del call
    timed = {name: result["ms"] for name, result in results.items() if "ms" in result}
    ratios = {f"wavelet / {name}": timed["wavelet"] / ms for name, ms in timed.items()} if "wavelet" in timed else {}
    return {"shape": shape.describe(), "R": case.table.shape[0], "peers": results, "ratios": ratios}


def environment(device: str | None) -> dict[str, Any]:
    """The device's name, versions and the time; ``device`` is a type of device, by default the accelerator."""
    name = platform.processor() or platform.machine()
    if device != "cpu":
        name = torch.get_device_module(device).get_device_name()
    try:
        vllm_version = version("vllm")
    except PackageNotFoundError:
        vllm_version = "not installed"
    versions = {"torch": torch.__version__, "triton": triton.__version__, "vllm": vllm_version}
    return {
        "device": name,
        **versions,
        "python": platform.python_version(),
        "time": time.strftime("%FT%TZ", time.gmtime()),
    }


def fits(shape: Shape, device: str, element: int) -> bool:
    if device == "cpu":
        return True
    return shape.bytes_moved(element, element) < MEMORY_SHARE * torch.get_device_module(device).mem_get_info()[1]


def report(entry: dict[str, Any]) -> None:
    shape = entry["shape"]
    print(
        f"{shape['model']} batch {shape['batch']} context {shape['context']} queries {shape['queries']} R {entry['R']}"
    )
    for name, result in entry["peers"].items():
        if "unavailable" in result:
            print(f"  {name:18} unavailable: {result['unavailable'][:90]}")
        elif not result["parity"]:
            print(f"  {name:18} FAILS PARITY, not timed: error {result['error']:.2e}, allowed {result['allowed']:.2e}")
        else:
            shares = f"{result['of_copy']:6.1%} of copy {result['of_matmul']:6.1%} of matmul"
            print(f"  {name:18} {result['ms']:9.3f} ms {shares}  error {result['error']:.1e}", flush=True)
    for name, (figure, met) in entry.get("targets", {}).items():
        print(f"  {'met' if met else 'MISSED'}: {name}, is {'missing' if figure is None else f'{figure:.3f}'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, on the CPU under Triton's interpreter")
    parser.add_argument("--minutes", type=float, default=60, help="start no case after this long")
    parser.add_argument("--quick", action="store_true", help="what is asked of Llama-3-8B's heads, and few peers")
    parser.add_argument("--output", type=Path, default=RESULTS / "attention.json")
    options = parser.parse_args()
    if options.smoke and os.environ.get("TRITON_INTERPRET") != "1":
        parser.error("--smoke needs TRITON_INTERPRET=1 in the environment")
    device = "cpu" if options.smoke else triton.runtime.driver.active.get_active_torch_device().type
    dtype = torch.bfloat16
    started, entries = time.monotonic(), []
    ceiling = ceilings(device, dtype, options.smoke)
    skipped = []
    with torch.inference_mode():
        for shape in SMOKE if options.smoke else shapes():
            if options.quick and shape.model not in QUICK_MODELS:
                continue
            if time.monotonic() - started > options.minutes * 60:
                skipped.append({"shape": shape.describe(), "reason": "out of time"})
            elif not fits(shape, device, 2):
                skipped.append({"shape": shape.describe(), "reason": "does not fit in memory"})
            else:
                left_out = set(PEERS) - set(QUICK_PEERS) if options.quick else set()
                entries.append(measure(Case(shape, device, dtype), device, ceiling, left_out))
                if is_target(shape):
                    entries[-1]["targets"] = targets(entries[-1])
                report(entries[-1])
            # After each case: a run that is cut off leaves what it measured.
            result = {
                "interpreted": options.smoke,
                "environment": environment(device),
                "ceilings": ceiling,
                "cases": entries,
                "skipped": skipped,
            }
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {options.output}")
    sys.exit(0 if all(entry["peers"]["wavelet"].get("parity") for entry in entries) else 1)


if __name__ == "__main__":
    main()
