"""The native kernel's shared library: found prebuilt, found in the user's cache, or compiled there at first use.

One library per instruction set; the best that this CPU has is taken. It is not linked to an OpenMP runtime: its
symbols resolve to the one that torch has loaded, so that ``torch.set_num_threads`` governs it.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from model_registry.attention.native.constants import DEFINITIONS
from model_registry.attention.native.tile_permission import tile_refusal

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCES = Path(__file__).with_name("csrc")
PREBUILT = Path(__file__).with_name("prebuilt")
"""Where libraries built ahead of time are looked for, see ``model_registry.attention.build``."""

FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fopenmp", "-fvisibility=hidden", *DEFINITIONS)


_logger = logging.getLogger(__name__)


class NativeLibraryUnavailableError(RuntimeError):
    """There is no library for this CPU and none can be built; ``reason`` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the native attention kernel is not available: {reason}")
        self.reason = reason


class Variant(NamedTuple):
    """An instruction set: compiler options, and what /proc/cpuinfo must list."""

    name: str
    options: tuple[str, ...]
    needs: frozenset[str]


_AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma")
_AVX512_NEEDS = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "fma"})

AMX = Variant(
    "amx",
    (*_AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16"),
    _AVX512_NEEDS | {"avx512_bf16", "amx_tile", "amx_bf16"},
)
"""The variant that multiplies bfloat16 in tile registers, which a process has to ask for."""

VARIANTS = (
    AMX,
    Variant("avx512bf16", (*_AVX512, "-mavx512bf16"), _AVX512_NEEDS | {"avx512_bf16"}),
    Variant("avx512", _AVX512, _AVX512_NEEDS),
    Variant("avx2", ("-mavx2", "-mfma"), frozenset({"avx2", "fma"})),
    Variant("portable", (), frozenset()),
)
"""The best first."""


VARIANT_VARIABLE = "WAVE_ATTENTION_VARIANT"
"""Environment variable with the name of the variant to use in place of the best."""


def variants_of_this_cpu() -> list[Variant]:
    """The variants that this CPU runs, the best first; the last one, ``amx-emulated``, is for checks.

    It does what ``amx`` does with the tile registers in plain C++, and with the vectors that this CPU has.
    """
    features = _cpu_features()
    variants = [variant for variant in VARIANTS if variant.needs <= features]
    vectors = next(variant for variant in variants if variant is not AMX)
    emulated = Variant("amx-emulated", (*vectors.options, "-DWAVE_EMULATED_TILES"), vectors.needs)
    return [*variants, emulated]


def chosen_variant() -> Variant:
    """The variant that is asked for in the environment, or else the best.

    Raises:
        NativeLibraryUnavailableError: this CPU does not run the one that is asked for, or Linux refuses what it needs.
    """
    return choose(variants_of_this_cpu(), os.environ.get(VARIANT_VARIABLE), tile_refusal)


def choose(variants: list[Variant], name: str | None, tile_refusal: Callable[[], str | None]) -> Variant:
    """The variant called ``name``, or else the first of ``variants`` that the process may use.

    ``tile_refusal`` is asked before ``amx`` is taken. Where it gives a reason the next variant is taken, with a
    warning, unless ``amx`` is what was asked for.

    Raises:
        NativeLibraryUnavailableError: ``name`` is not among ``variants``, or it is ``amx`` and refused.
    """
    chosen = next((variant for variant in variants if variant.name == (name or variants[0].name)), None)
    if chosen is None:
        names = ", ".join(variant.name for variant in variants)
        raise NativeLibraryUnavailableError(f"{VARIANT_VARIABLE}={name}, but this CPU runs {names}")
    refusal = tile_refusal() if chosen is AMX else None
    if refusal is None:
        return chosen
    if name:
        raise NativeLibraryUnavailableError(f"{VARIANT_VARIABLE}={name}, but there is no permission: {refusal}")
    following = variants[variants.index(AMX) + 1]
    _logger.warning("Attention runs on variant %r, not on %r: %s", following.name, AMX.name, refusal)
    return following


@cache
def load_library() -> tuple[ctypes.CDLL, Variant]:
    """The library for this process, and which variant it is.

    Raises:
        NativeLibraryUnavailableError: it is not prebuilt and cannot be compiled, or it cannot be loaded.
    """
    import torch  # noqa: F401  its OpenMP runtime must be there before the library that uses it

    variant = chosen_variant()
    places = [directory / file_name(variant) for directory in (PREBUILT, cache_directory())]
    path = next((place for place in places if place.exists()), None)
    if path is None:
        path = build(variant, cache_directory(), find_compiler())
    try:
        return ctypes.CDLL(str(path)), variant
    except OSError as error:
        raise NativeLibraryUnavailableError(f"{path} cannot be loaded: {error}") from error


def build(variant: Variant, directory: Path, compiler: str) -> Path:
    """Compile ``variant`` into ``directory`` unless it is there; safe beside other processes that do the same.

    Raises:
        NativeLibraryUnavailableError: the compiler fails, or ``directory`` cannot be written.
    """
    path = directory / file_name(variant)
    if path.exists():
        return path
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory) as scratch:
            compiled, linked = Path(scratch) / "attention.o", Path(scratch) / path.name
            _run(compiler, *FLAGS, *variant.options, "-c", str(SOURCES / "attention.cpp"), "-o", str(compiled))
            _run(compiler, "-shared", str(compiled), "-o", str(linked))
            linked.replace(path)
    except OSError as error:
        raise NativeLibraryUnavailableError(f"{directory} cannot be written: {error}") from error
    return path


def file_name(variant: Variant) -> str:
    """The file of a variant; sources and options are part of the name, so that a stale one is never loaded."""
    digest = hashlib.sha256(repr((FLAGS, variant.options)).encode())
    for source in sorted([*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h")]):
        digest.update(source.read_bytes())
    return f"wavelet_attention-{variant.name}-{digest.hexdigest()[:16]}.so"


def find_compiler() -> str:
    """The C++ compiler: ``$CXX`` if set, else ``g++``, else ``c++``.

    Raises:
        NativeLibraryUnavailableError: there is none.
    """
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "c++"]
    for name in names:
        if path := shutil.which(name):
            return path
    raise NativeLibraryUnavailableError(
        f"it is not prebuilt for {chosen_variant().name}, and no C++ compiler ({', '.join(names)}) is on the PATH"
    )


def cache_directory() -> Path:
    """Where libraries compiled at first use are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wave-serve"


def _run(*command: str) -> None:
    finished = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if finished.returncode:
        raise NativeLibraryUnavailableError(f"{' '.join(command)} failed:\n{finished.stderr[-2000:]}")


def _cpu_features() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())
