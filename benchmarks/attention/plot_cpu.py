"""Plots cpu.py's JSON: python -m benchmarks.attention.plot_cpu RESULTS.json PLOT.svg"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot


def main() -> None:
    results, target = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4))
    lines: dict[str, list[tuple[int, float, float]]] = defaultdict(list)
    for case in results["cases"]:
        if case["parity"]:
            kind, _, _ = case["case"].rpartition(" at ")
            context = case["before"] + case["queries"]
            lines[f"{kind}, {case['threads']} thread(s)"].append((context, case["ratio"], case["position_share"]))
    for name, points in sorted(lines.items()):
        contexts, ratios, shares = zip(*sorted(points), strict=True)
        dash = "-" if name.endswith("1 thread(s)") else ":"
        axes[0].plot(contexts, ratios, dash, marker="o", label=name)
        if None not in shares:
            axes[1].plot(contexts, [100 * share for share in shares], dash, marker="o", label=name)
    axes[0].axhline(1, color="grey", linewidth=0.8)
    axes[0].set(xscale="log", xlabel="context (keys)", ylabel="time / time of vLLM's kernel", ylim=(0, None))
    axes[1].axhline(3, color="grey", linewidth=0.8)
    axes[1].set(xscale="log", xlabel="context (keys)", ylabel="position term, % of the time")
    axes[0].legend(fontsize="xx-small")
    figure.suptitle(f"{results['machine']['cpu']}, {results['versions']['kernel']}, bfloat16", fontsize="small")
    figure.tight_layout()
    figure.savefig(target)


if __name__ == "__main__":
    main()
