"""English prose that Debian packages ship, as a directory of documents to train on and one of documents held out.

    python -m benchmarks.quality.prose --out runs/prose

Needs ``apt-get`` and ``dpkg-deb``; nothing is installed, the packages are unpacked into a temporary directory. Writes
``train/PACKAGE/NAME.txt``, ``held_out/PACKAGE/NAME.txt``, ``held_out.txt`` (the latter joined, to be measured on) and
``manifest.json`` (versions, licences, documents). A package of another version may give other documents.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import random
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

HELD_OUT_FRACTION = 0.05
"""Of the documents of each package, at least one."""
SHORTEST = 1000
"""Characters below which a document is left out: title pages and lists of links."""
KERNEL_FOLDERS = (
    *("RCU", "core-api", "dev-tools", "doc-guide", "kernel-hacking", "locking", "maintainer", "mm", "process"),
    *("scheduler", "security"),
)
"""Of the kernel's documentation those that are prose rather than tables of devices and parameters."""
BLOCKS = frozenset(
    ("p", "div", "h1", "h2", "h3", "h4", "h5", "h6", "li", "dt", "dd", "tr", "pre", "br", "table", "ul", "ol", "dl")
)
"""Elements that begin and end a line."""
PASSED_OVER = frozenset({"script", "style", "head"})
NAVIGATION = frozenset({"Prev", "Next", "Up", "Home", "Download the ebook", "The Debian Administrator's Handbook"})
"""Lines that every page repeats."""


def run(program: str, *arguments: str | Path, cwd: Path | None = None) -> str:
    """What a program of the path prints; its errors go to this one's."""
    command = [shutil.which(program) or program, *arguments]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=cwd, text=True, check=True
    ).stdout


class Paragraphs(HTMLParser):
    """The text of a page, a line for each block; preformatted text keeps its own lines."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = [""]
        self._inside = {"pre": 0, "passed over": 0}

    def handle_starttag(self, tag: str, _attrs: list[tuple[str, str | None]]) -> None:
        """A block begins a line."""
        self._change(tag, +1)
        if tag in BLOCKS:
            self.lines.append("")

    def handle_endtag(self, tag: str) -> None:
        """A block ends its line."""
        self._change(tag, -1)
        if tag in BLOCKS:
            self.lines.append("")

    def handle_data(self, data: str) -> None:
        """Text that is shown."""
        if not self._inside["passed over"]:
            self.lines[-1] += data if self._inside["pre"] else re.sub(r"\s+", " ", data)

    def _change(self, tag: str, by: int) -> None:
        if tag == "pre":
            self._inside["pre"] += by
        elif tag in PASSED_OVER:
            self._inside["passed over"] += by


def page_text(markup: str) -> str:
    """What a page shows: its lines that hold text, a paragraph each."""
    reader = Paragraphs()
    reader.feed(markup)
    reader.close()
    lines = [line.strip("\n ") for line in reader.lines]
    return "\n".join(line for line in lines if line and line not in NAVIGATION) + "\n"


def pages(folder: Path) -> dict[str, str]:
    """Name and text of every HTML page of a folder but its index."""
    files = [path for path in sorted(folder.glob("*.html")) if not path.name.startswith("index.")]
    return {path.stem: page_text(path.read_text(encoding="utf-8")) for path in files}


def bible(root: Path) -> dict[str, str]:
    """The books, as the package's own reader prints them, without the verses' numbers."""
    printed = run(str(root / "usr/bin/bible"), "-p", root / "usr/lib", "-l99999", "Gen1:1-Rev22:21")
    books: dict[str, str] = {}
    book = ""
    for line in printed.splitlines():
        if line[:1].isalnum():
            book = line.rsplit(" ", 1)[0]
        books[book] = books.get(book, "") + re.sub(r"^ *\d+ ", "", line) + "\n"
    return {name.replace(" ", "_"): text for name, text in books.items() if name}


def kernel(root: Path) -> dict[str, str]:
    """Documents of the folders of prose, as they were written (reStructuredText)."""
    found = {}
    for folder in KERNEL_FOLDERS:
        for path in sorted((root / "usr/share/doc/linux-doc-6.1/Documentation" / folder).rglob("*.rst*")):
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            found[f"{folder}-{path.name.split('.rst')[0]}"] = data.decode()
    return found


@dataclass(frozen=True)
class Source:
    """Packages that make up one source of documents.

    Attributes:
        packages: Debian packages that are unpacked together; the first one names the source.
        licence: of the text, as the package's copyright file has it.
        read: names and texts of the documents below the folder that the packages were unpacked into.
    """

    packages: tuple[str, ...]
    licence: str
    read: Callable[[Path], dict[str, str]]


SOURCES = (
    Source(("bible-kjv-text", "bible-kjv"), "public domain (King James Version)", bible),
    Source(
        ("debian-handbook",),
        "GPL-2.0-or-later or CC-BY-SA-3.0",
        lambda root: pages(root / "usr/share/doc/debian-handbook/html/en-US"),
    ),
    Source(("debian-reference-en",), "GPL-2.0-or-later", lambda root: pages(root / "usr/share/debian-reference")),
    Source(("linux-doc-6.1",), "GPL-2.0-only", kernel),
)


def unpack(packages: tuple[str, ...], folder: Path) -> dict[str, str]:
    """Download and unpack packages into one folder; their versions."""
    folder.mkdir(parents=True)
    versions = {}
    for package in packages:
        run("apt-get", "download", "-qq", package, cwd=folder)
        archive = next(folder.glob(f"{package}_*.deb"))
        versions[package] = run("dpkg-deb", "-f", archive, "Version").strip()
        run("dpkg-deb", "-x", archive, folder)
    return versions


def held_out_names(names: list[str], seed: int) -> set[str]:
    """The documents of one source that are not trained on."""
    count = max(1, round(len(names) * HELD_OUT_FRACTION))
    return set(random.Random(seed).sample(sorted(names), count))  # noqa: S311 - a split, not a secret


def write(out: Path, seed: int) -> dict[str, Any]:
    """Write all documents; the manifest."""
    manifest: dict[str, Any] = {"seed": seed, "held_out_fraction": HELD_OUT_FRACTION, "sources": []}
    digest = hashlib.sha256()
    joined = []
    with tempfile.TemporaryDirectory() as scratch:
        for source in SOURCES:
            name = source.packages[0]
            folder = Path(scratch) / name
            versions = unpack(source.packages, folder)
            documents = {key: text for key, text in source.read(folder).items() if len(text) >= SHORTEST}
            apart = held_out_names(list(documents), seed)
            for key, text in sorted(documents.items()):
                target = out / ("held_out" if key in apart else "train") / name / f"{key}.txt"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text, encoding="utf-8")
                digest.update(f"{name}/{key}\0{text}\0".encode())
                joined += [text] if key in apart else []
            manifest["sources"].append(
                {
                    "packages": versions,
                    "licence": source.licence,
                    "documents": len(documents),
                    "bytes": sum(len(text.encode()) for text in documents.values()),
                    "held_out": sorted(apart),
                }
            )
    manifest["sha256"] = digest.hexdigest()
    (out / "held_out.txt").write_text("\n".join(joined), encoding="utf-8")
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return manifest


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a new directory")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of held-out documents")
    options = parser.parse_args()
    print(json.dumps(write(options.out, options.seed), indent=1))
