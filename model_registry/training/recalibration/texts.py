"""Documents to train on: text files, folders of them, JSON lines, and data sets of the ``datasets`` library."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from model_registry.training.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

DATASET_FILES = ("dataset_info.json", "dataset_dict.json")
"""What a folder written by ``datasets.save_to_disk`` holds."""


@dataclass(frozen=True)
class Documents:
    """Texts split by document, and a digest of all of them."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]
    digest: str


def read_documents(paths: Sequence[Path], *, text_field: str, seed: int, held_out_fraction: float) -> Documents:
    """Read every path and set a share of the documents apart.

    A folder is read with all folders in it: every file that is UTF-8 text is a document, hidden ones aside. A file
    ending in ``.jsonl`` has an object with ``text_field`` on each line. A folder written by ``datasets.save_to_disk``
    is a data set (its ``train`` split where it has splits) with a column ``text_field``.

    Raises:
        TrainingError: a path does not exist, a line or a column lacks the text, or there are fewer than 2 documents.
    """
    if not paths:
        raise TrainingError("nothing to train on: give --text PATH, once or more")
    texts = [text for path in paths for text in _texts(path, text_field) if text]
    if len(texts) < 2:
        raise TrainingError(f"{', '.join(map(str, paths))}: {len(texts)} documents with text; at least 2 are needed")
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    random.Random(seed).shuffle(texts)  # noqa: S311 - a split, not a secret
    count = min(max(1, round(len(texts) * held_out_fraction)), len(texts) - 1)
    return Documents(tuple(texts[count:]), tuple(texts[:count]), digest)


def _texts(path: Path, text_field: str) -> Iterator[str]:
    if path.is_dir() and any((path / name).is_file() for name in DATASET_FILES):
        yield from _dataset(path, text_field)
    elif path.is_dir():
        for file in sorted(path.rglob("*")):
            hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
            if file.is_file() and not hidden and (text := _utf8(file)) is not None:
                yield text
    elif path.suffix == ".jsonl" and path.is_file():
        yield from _lines(path, text_field)
    elif path.is_file():
        text = _utf8(path)
        if text is None:
            raise TrainingError(f"text {str(path)!r} is not UTF-8")
        yield text
    else:
        raise TrainingError(f"text {str(path)!r} does not exist")


def _utf8(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def _lines(path: Path, text_field: str) -> Iterator[str]:
    # A byte that is no UTF-8 becomes half a surrogate pair, like one that JSON spells as ``\ud83d``: neither is text.
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    text = json.loads(line)[text_field]
                except (ValueError, KeyError, TypeError) as error:
                    raise TrainingError(f"{str(path)!r} line {number}: no object with {text_field!r}") from error
                if not isinstance(text, str):
                    raise TrainingError(f"{str(path)!r} line {number}: {text_field!r} is no string")
                try:
                    text.encode()
                except UnicodeEncodeError as error:
                    found = text[error.start : error.end]
                    raise TrainingError(
                        f"{str(path)!r} line {number}: {text_field!r} is no UTF-8: {found!r}"
                    ) from error
                yield text


def _dataset(path: Path, text_field: str) -> Iterator[str]:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise TrainingError(f"data set {str(path)!r} needs the package datasets: pip install datasets") from error
    found = datasets.load_from_disk(str(path))
    if isinstance(found, datasets.DatasetDict):
        if "train" not in found:
            raise TrainingError(f"data set {str(path)!r} has no split 'train': it has {', '.join(found)}")
        found = found["train"]
    if text_field not in found.column_names:
        raise TrainingError(f"data set {str(path)!r} has no column {text_field!r}: {', '.join(found.column_names)}")
    yield from found[text_field]
