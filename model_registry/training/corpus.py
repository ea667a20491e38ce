"""The corpus: text files of a directory, by default Python sources, split into training and held-out texts."""

from __future__ import annotations

import hashlib
import random
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from model_registry.training.errors import TrainingError

PYTHON = "*.py"
"""The pattern of the files that are read by default."""

EXCLUDED = frozenset({"site-packages", "test", "tests", "idle_test", "encodings", "pydoc_data", "__pycache__"})
"""Directories left out: other people's packages, tests (two thirds of the library) and files that are mostly data."""


@dataclass(frozen=True)
class Corpus:
    """Texts of whole files in a seeded order, the names of the held-out files, and a digest of names and texts.

    ``pattern`` is that of the files' names; ``is_standard_library`` tells whose sources they are.
    """

    train: tuple[str, ...]
    held_out: tuple[str, ...]
    held_out_names: tuple[str, ...]
    digest: str
    pattern: str
    is_standard_library: bool


def standard_library() -> Path:
    """Where the running interpreter's standard library sources are."""
    return Path(sysconfig.get_paths()["stdlib"])


def read_corpus(directory: Path, *, seed: int, held_out_fraction: float, pattern: str = PYTHON) -> Corpus:
    """Read every file below ``directory`` that is UTF-8, not empty and not in an ``EXCLUDED`` directory.

    Args:
        directory: read with all directories in it.
        seed: of the choice of held-out files.
        held_out_fraction: share of the files, in (0, 1).
        pattern: of the files' names, such as ``*.txt``.

    Raises:
        TrainingError: the directory does not exist or holds fewer than two such files, or the pattern is none.
    """
    if not directory.is_dir():
        raise TrainingError(f"corpus directory {str(directory)!r} does not exist")
    texts: dict[str, str] = {}
    try:
        paths = sorted(directory.rglob(pattern))
    except (ValueError, NotImplementedError) as error:  # one that begins with a slash
        raise TrainingError(f"pattern {pattern!r} is none of files' names: {error}") from error
    for path in paths:
        name = path.relative_to(directory)
        if path.is_file() and EXCLUDED.isdisjoint(name.parts) and (text := _utf8(path)):
            texts[name.as_posix()] = text
    if len(texts) < 2:
        kind = pattern.removeprefix("*")
        raise TrainingError(
            f"corpus directory {str(directory)!r} holds {len(texts)} usable {kind} files; at least 2 needed"
        )
    digest = hashlib.sha256("\0".join(f"{name}\0{text}" for name, text in texts.items()).encode()).hexdigest()
    names = list(texts)
    random.Random(seed).shuffle(names)  # noqa: S311 - a split, not a secret
    count = min(max(1, round(len(names) * held_out_fraction)), len(names) - 1)
    held_out = sorted(names[:count])
    return Corpus(
        train=tuple(texts[name] for name in names[count:]),
        held_out=tuple(texts[name] for name in held_out),
        held_out_names=tuple(held_out),
        digest=digest,
        pattern=pattern,
        is_standard_library=pattern == PYTHON and directory == standard_library(),
    )


def _utf8(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None
