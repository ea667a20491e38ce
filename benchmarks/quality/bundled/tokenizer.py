"""Makes the bundled model's tokenizer from sources and readmes of the environment, and from generated tasks.

    python -m benchmarks.quality.bundled.tokenizer --out runs/tokenizer

It was made once, in this project's own environment (Python 3.11); ``train.py`` takes what the checkpoint holds.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import random
import sysconfig
from pathlib import Path

from benchmarks.quality.bundled.corpus import EXCLUDED, read
from model_registry.training.tasks import kinds
from model_registry.training.tokenizer import train_tokenizer

VOCABULARY = 4096
LARGEST = 400_000
MEGABYTES = {
    "torch": 6,
    "sympy": 3,
    "transformers": 4,
    "numpy": 2,
    "matplotlib": 2,
    "PIL": 1,
    "aiohttp": 1,
    "jinja2": 1,
    "pygments": 1,
    "setuptools": 1,
}
TASKS = 1500


def sources(root: Path, megabytes: float, draw: random.Random) -> list[str]:
    """Texts of Python files below a folder, in an order drawn at random, up to that many megabytes."""
    paths = [path for path in sorted(root.rglob("*.py")) if EXCLUDED.isdisjoint(path.relative_to(root).parts)]
    draw.shuffle(paths)
    found, size = [], 0
    for path in paths:
        text = read(path)
        if 200 < len(text) < LARGEST and size < megabytes * 1e6:
            found.append(text)
            size += len(text)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    draw = random.Random(0)  # noqa: S311 - data, not a secret
    texts = sources(Path(sysconfig.get_paths()["stdlib"]), 1000, draw)
    packages = Path(sysconfig.get_paths()["purelib"])
    for name, megabytes in MEGABYTES.items():
        texts += sources(packages / name, megabytes, draw)
    for package in sorted(importlib.metadata.distributions(), key=lambda each: str(each.metadata["Name"])):
        text = package.metadata.get_payload()
        if isinstance(text, str):
            texts.append(text[:40_000])
    for _ in range(TASKS):
        for kind in (kinds.pass_key, kinds.look_up, kinds.several_values, kinds.chain):
            task = kind(draw)
            texts.append(kinds.OPENING + "".join([*task.lines, *(part for pair in task.questions for part in pair)]))
    train_tokenizer(texts, VOCABULARY).save_pretrained(options.out)


if __name__ == "__main__":
    main()
