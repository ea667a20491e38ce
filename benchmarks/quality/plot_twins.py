"""Draws loss and pass keys of the 2.2 M model that was bundled first, beside its rope and ALiBi twins, as recorded.

python -m benchmarks.quality.plot_twins      # after the evaluations that docs/results.md lists
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from wave_serve.eval.plot import draw

RESULTS = Path(__file__).parents[1] / "results/twins"
TRAIN_LENGTH = 512
RECORDED = {
    "perplexity": (RESULTS / "wavelet-loss.json", RESULTS / "rope-loss.json", RESULTS / "alibi-loss.json"),
    "passkey": (RESULTS / "wavelet-passkey.json", RESULTS / "rope-passkey.json", RESULTS / "alibi-passkey.json"),
}
PLOTS = {"perplexity": "loss.svg", "passkey": "passkey.svg"}


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a recorded evaluation."""
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"]
    return rows


def main() -> None:
    """Writes both plots."""
    with tempfile.TemporaryDirectory() as directory:
        for kind, paths in RECORDED.items():
            rows = [row for path in paths for row in rows_of(path)]
            draw(Path(directory), kind, rows, [TRAIN_LENGTH])
            shutil.copy(Path(directory) / f"{kind}.svg", RESULTS / PLOTS[kind])


if __name__ == "__main__":
    main()
