"""Plots cost against context from gpu.py's JSON: python -m benchmarks.attention.plot_gpu RESULTS.json PLOT.svg"""

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
    lines: dict[str, dict[str, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    for case in results["cases"]:
        shape = case["shape"]
        queries = "decode" if shape["queries"] == 1 else f"prefill of {shape['queries']}"
        panel = f"{shape['model']}, {queries}, batch {shape['batch']}"
        for name, peer in case["peers"].items():
            if "ms" in peer:
                lines[panel][name].append((shape["context"], peer["ms"]))
    figure, axes = pyplot.subplots(1, len(lines), figsize=(4 * len(lines), 3.6), squeeze=False)
    for axis, (panel, peers) in zip(axes[0], lines.items(), strict=True):
        for name, points in peers.items():
            axis.plot(*zip(*sorted(points), strict=True), marker="o", label=name)
        axis.set(title=panel, xscale="log", yscale="log", xlabel="context (keys)", ylabel="milliseconds")
    axes[0][0].legend(fontsize="small")
    note = "interpreted on a CPU: not timings" if results["interpreted"] else results["environment"]["device"]
    figure.suptitle(note, fontsize="small")
    figure.tight_layout()
    figure.savefig(target)


if __name__ == "__main__":
    main()
