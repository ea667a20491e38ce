"""Text for the bundled model: sources of installed packages under permissive licences, and their readmes as prose."""

import hashlib
import importlib.metadata
import multiprocessing
import random
import sysconfig
from pathlib import Path

import numpy
from tokenizers import Tokenizer

PACKAGES = {
    # name on PyPI: folder, megabytes at most
    "torch": ("torch", 14),
    "transformers": ("transformers", 16),
    "sympy": ("sympy", 10),
    "scipy": ("scipy", 6),
    "numpy": ("numpy", 5),
    "pandas": ("pandas", 6),
    "scikit-learn": ("sklearn", 6),
    "jax": ("jax", 8),
    "matplotlib": ("matplotlib", 4),
    "lightning": ("lightning", 3),
    "accelerate": ("accelerate", 2),
    "optax": ("optax", 2),
    "flax": ("flax", 3),
    "onnx": ("onnx", 2),
    "statsmodels": ("statsmodels", 5),
    "scikit-image": ("skimage", 3),
    "aiohttp": ("aiohttp", 1),
    "fonttools": ("fontTools", 3),
    "sentence-transformers": ("sentence_transformers", 1),
    "timm": ("timm", 3),
    "torchvision": ("torchvision", 2),
    "pytorch-lightning": ("pytorch_lightning", 2),
    "torch-geometric": ("torch_geometric", 4),
    "gpytorch": ("gpytorch", 1),
    "botorch": ("botorch", 3),
    "numba": ("numba", 4),
    "huggingface_hub": ("huggingface_hub", 2),
    "peft": ("peft", 2),
    "werkzeug": ("werkzeug", 1),
    "rich": ("rich", 1),
    "pygments": ("pygments", 2),
    "mpmath": ("mpmath", 1),
    "setuptools": ("setuptools", 1),
    "pip": ("pip", 3),
}
EXCLUDED = {"test", "tests", "testing", "idle_test", "encodings", "pydoc_data", "__pycache__", "site-packages"}
LARGEST = 300_000
HELD_OUT = "networkx"
"""The package that losses are measured on: no part of the corpus."""
HELD_OUT_FILES = frozenset(
    {
        "asyncio/exceptions.py",
        "bz2.py",
        "codeop.py",
        "ctypes/_aix.py",
        "distutils/command/bdist.py",
        "distutils/cygwinccompiler.py",
        "email/__init__.py",
        "fractions.py",
        "idlelib/delegator.py",
        "idlelib/filelist.py",
        "importlib/metadata/_meta.py",
        "lib2to3/fixes/fix_map.py",
        "linecache.py",
        "py_compile.py",
        "shutil.py",
        "statistics.py",
        "unittest/loader.py",
        "wsgiref/__init__.py",
    }
)
"""Of the standard library: what `wave-serve eval perplexity` scores where it is given no text."""


def files() -> tuple[list[Path], dict[str, dict]]:
    """Paths of all sources, and what is taken of which package under which licence."""
    library = Path(sysconfig.get_paths()["stdlib"])
    found = [path for path in sources(library, 40) if path.relative_to(library).as_posix() not in HELD_OUT_FILES]
    listed = {"python": {"version": sysconfig.get_python_version(), "licence": "PSF-2.0", "files": len(found)}}
    for name, (folder, megabytes) in PACKAGES.items():
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        part = sources(Path(str(package.locate_file(folder))), megabytes)
        found += part
        data = package.metadata
        licences = [each for each in data.get_all("Classifier") or () if each.startswith("License")]
        licence = data.get("License-Expression") or (licences and licences[0]) or (data.get("License") or "")[:80]
        listed[name] = {"version": package.version, "licence": licence, "files": len(part)}
    return found, listed


def sources(root: Path, megabytes: float) -> list[Path]:
    """Python files below a folder, a seeded choice of them up to that many megabytes."""
    found = [path for path in sorted(root.rglob("*.py")) if EXCLUDED.isdisjoint(path.relative_to(root).parts)]
    random.Random(0).shuffle(found)  # noqa: S311
    kept, size = [], 0
    for path in found:
        if 200 < path.stat().st_size < LARGEST and size < megabytes * 1e6:
            kept.append(path)
            size += path.stat().st_size
    return kept


def readmes() -> list[str]:
    """Descriptions of the packages of the corpus: English prose, mostly."""
    texts = []
    for name in PACKAGES:
        try:
            text = importlib.metadata.metadata(name).get_payload()
        except importlib.metadata.PackageNotFoundError:
            continue
        if isinstance(text, str) and len(text) > 500:
            texts.append(text[:60_000])
    return texts


def read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError):
        return ""


def encode_files(job: tuple[str, list[Path]]) -> tuple[numpy.ndarray, str]:
    """Tokens of whole files, the end-of-text token after each, and a digest of the texts."""
    tokenizer_path, paths = job
    tokenizer = Tokenizer.from_file(tokenizer_path)
    ids: list[int] = []
    digest = hashlib.sha256()
    for path in paths:
        text = read(path)
        digest.update(text.encode())
        ids += tokenizer.encode(text, add_special_tokens=False).ids
        ids.append(0)
    return numpy.array(ids, dtype=numpy.uint16), digest.hexdigest()


def corpus(tokenizer_path: str, processes: int, limit: int | None = None) -> tuple[numpy.ndarray, numpy.ndarray, dict]:
    """Code and prose as token streams, and what they are made of."""
    paths, listed = files()
    random.Random(1).shuffle(paths)  # noqa: S311
    paths = paths[:limit]
    parts = [(tokenizer_path, paths[start : start + 40]) for start in range(0, len(paths), 40)]
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        encoded = pool.map(encode_files, parts, chunksize=1)
    code = numpy.concatenate([ids for ids, _ in encoded])
    tokenizer = Tokenizer.from_file(tokenizer_path)
    prose: list[int] = []
    for text in readmes():
        prose += [*tokenizer.encode(text, add_special_tokens=False).ids, 0]
    digest = hashlib.sha256("".join(each for _, each in encoded).encode()).hexdigest()
    facts = {"packages": listed, "files": len(paths), "tokens": len(code), "prose_tokens": len(prose), "sha256": digest}
    return code, numpy.array(prose, dtype=numpy.uint16), facts


def held_out(tokenizer_path: str, tokens: int) -> numpy.ndarray:
    """The beginning of the held-out package's algorithms, as one stream."""
    folder = Path(str(importlib.metadata.distribution(HELD_OUT).locate_file(HELD_OUT))) / "algorithms"
    ids, _ = encode_files((tokenizer_path, sorted(folder.glob("*.py"))))
    return ids[:tokens]
