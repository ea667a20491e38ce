"""Draws loss or accuracy against length, one line per endpoint."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wave_serve.eval.errors import OutputError

FORMATS = ("png", "svg")
INCHES = (7.0, 4.2)
DPI = 150
YLABELS = {"perplexity": "loss (nats per token)", "passkey": "exact answers", "ruler": "score"}


def check_plotting() -> None:
    """Raises OutputError where matplotlib is not installed, naming the extra, or cannot be imported."""
    if importlib.util.find_spec("matplotlib") is None:
        raise OutputError("the plot needs matplotlib: install wave-serve[train], or give --no-plot")
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        importlib.import_module("matplotlib.pyplot")
    except Exception as error:  # of any kind: a module that it needs may be of another version
        reason = f"{type(error).__name__}: {error}"
        raise OutputError(f"matplotlib does not work here ({reason}); repair it, or give --no-plot") from None


def draw(directory: Path, kind: str, rows: Sequence[Mapping[str, Any]], train_lengths: Sequence[int | None]) -> None:
    """Writes `kind`.png and `kind`.svg; rows as the run gives them, train_lengths (tokens) as vertical lines."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=INCHES, layout="constrained")
    for name in dict.fromkeys(row["endpoint"] for row in rows):
        own = [row for row in rows if row["endpoint"] == name]
        if kind == "perplexity":
            line = _curve(axes, own, "nats_per_token", "nats_per_token_interval", f"{name}, all tokens", "-", None)
            _curve(axes, own, "end_nats_per_token", None, f"{name}, end of the sample", "--", line)
        elif kind == "ruler":
            for task in dict.fromkeys(row["task"] for row in own):
                some = [row for row in own if row["task"] == task]
                _curve(axes, some, "score", None, f"{name}, {task}", "-", None)
        else:
            _curve(axes, own, "accuracy", "accuracy_interval", name, "-", None)
    for length in sorted({length for length in train_lengths if length}):
        axes.axvline(length, color="grey", linewidth=1, linestyle=":", label=f"training length {length}")
    axes.set_xscale("log", base=2)
    lengths = sorted({row["length"] for row in rows})
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.minorticks_off()
    axes.set_xlabel("length (tokens)")
    axes.set_ylabel(YLABELS[kind])
    if kind != "perplexity":
        axes.set_ylim(-0.02, 1.02)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small")
    for form in FORMATS:
        figure.savefig(directory / f"{kind}.{form}", dpi=DPI)
    pyplot.close(figure)


def _curve(
    axes: Any, rows: Sequence[Mapping[str, Any]], field: str, interval: str | None, label: str, style: str, like: Any
) -> Any:
    """One line with a band for its interval; `like`: another line whose colour it takes."""
    known = [row for row in rows if row[field] is not None]
    lengths = [row["length"] for row in known]
    colour = None if like is None else like.get_color()
    [line] = axes.plot(
        lengths, [row[field] for row in known], style, marker="o", markersize=4, label=label, color=colour
    )
    sure = [] if interval is None else [row for row in known if row[interval]]
    if interval is not None and sure:
        low, high = zip(*(row[interval] for row in sure), strict=True)
        axes.fill_between([row["length"] for row in sure], low, high, color=line.get_color(), alpha=0.15)
    return line
