"""The table and the plot of models measured by length, as ``extrapolation.py`` writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.quality.train_family import MEMBERS, TRAIN_LENGTH

if TYPE_CHECKING:
    from pathlib import Path

PLOTTED = (
    "ricker",
    "ricker + log_n",
    "ricker-log16 + log_n",
    "rope",
    "rope + linear",
    "rope + NTK",
    "rope + YaRN",
    "alibi",
    "nope",
)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: nats per token by length in each protocol, and pass keys by length where they were asked for."""
    lines = []
    for protocol in rows[0]["loss"]:
        lines += [f"Nats per token, {protocol}:", "", *_head(rows[0]["loss"][protocol])]
        for row in rows:
            cells = [f"{entry['nats_per_token']:.3f}" for entry in row["loss"][protocol]]
            lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
        lines.append("")
    if "passkeys" in rows[0]:
        lines += ["Pass keys, exact answers:", "", *_head(rows[0]["passkeys"])]
        for row in rows:
            cells = [f"{entry['exact']} of {entry['trials']}" for entry in row["passkeys"]]
            lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _head(entries: list[dict[str, Any]]) -> list[str]:
    heads = [f"{entry['multiple']:g} x" for entry in entries]
    return ["| position | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Loss against length of the plotted rows."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "extrapolation"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8.0, 4.2), layout="constrained")
    for row in rows:
        if row["name"] in PLOTTED:
            lengths = [entry["length"] for entry in row["loss"]["whole"]]
            losses = [entry["nats_per_token"] for entry in row["loss"]["whole"]]
            wavelet = MEMBERS[row["member"]]["position"] == "wavelet"
            axes.plot(lengths, losses, marker="o", markersize=3, linewidth=2.2 if wavelet else 1.2, label=row["name"])
    axes.axvline(TRAIN_LENGTH, color="grey", linewidth=1, linestyle=":", label=f"training length {TRAIN_LENGTH}")
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.minorticks_off()
    axes.set_xlabel("length (tokens)")
    axes.set_ylabel("loss (nats per token)")
    axes.grid(visible=True, alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")
    figure.savefig(path, metadata={"Date": None})
