"""The native kernel's library: every variant is right, any number of threads, and without a compiler it is said."""

import ctypes
import logging
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys

import pytest
import torch
from helpers.paged_case import paged_case
from helpers.python import IMPORTABLE, ROOT

from model_registry.attention import wavelet_attention
from model_registry.attention.native import library as native_library
from model_registry.attention.native.cache_writer import CacheWriteArguments
from model_registry.attention.native.kernel_arguments import KernelArguments
from model_registry.attention.native.library import (
    SOURCES,
    VARIANTS,
    NativeLibraryUnavailableError,
    build,
    cache_directory,
    choose,
    chosen_variant,
    find_compiler,
    load_library,
    variants_of_this_cpu,
)
from model_registry.attention.native.tile_permission import tile_refusal

SWEEP = ROOT / "tests/helpers/native_sweep.py"
PROGRAM = """
import torch
from helpers.paged_case import paged_case
from model_registry.attention import default_implementation, wavelet_attention
case = paged_case([300, 40], [20, 1], dtype=torch.float32)
expected = wavelet_attention(*case.arguments(), impl="reference")
for _ in range(2):
    assert (wavelet_attention(*case.arguments()) - expected).abs().max() < 1e-5
print(default_implementation("cpu"))
try:
    wavelet_attention(*case.arguments(), impl="cpu")
except Exception as error:
    print(type(error).__name__, error)
"""

DIGEST = """
import torch
from helpers.paged_case import paged_case
from model_registry.attention import NearBias, wavelet_attention
for lengths, queries in (([1777, 63, 5000, 140], [70, 63, 1, 9]), ([900, 33], [1, 1])):
    for heads, d in ((8, 64), (6, 96), (16, 64)):
        near_bias = NearBias(0.5, 100, 200) if heads == 8 else None
        options = {"block_size": 128, "R": 300, "dtype": torch.bfloat16, "near_bias": near_bias}
        case = paged_case(lengths, queries, H=heads, H_kv=2, d=d, **options)
        out = wavelet_attention(*case.arguments(), impl="cpu")
        print(hash(tuple(out.view(torch.int16).flatten().tolist())))
"""


def has_tiles():
    return " amx_tile" in pathlib.Path("/proc/cpuinfo").read_text()


def run(program, **environment):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": IMPORTABLE} | environment
    return subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )


def test_without_a_compiler_pytorch_serves_and_one_line_says_so(tmp_path):
    finished = run(PROGRAM, PATH="", CXX="", XDG_CACHE_HOME=str(tmp_path))
    assert finished.stdout.splitlines()[0] == "torch"
    assert finished.stdout.splitlines()[1].startswith("NativeLibraryUnavailableError")
    assert "no C++ compiler (g++, c++) is on the PATH" in finished.stdout
    lines = [line for line in finished.stderr.splitlines() if "Attention runs on" in line]
    assert len(lines) == 1
    assert "impl='torch'; impl='cpu' is not available: it is not prebuilt" in lines[0]


def test_a_library_built_before_needs_no_compiler(tmp_path):
    directory = tmp_path / "wave-serve"
    directory.mkdir()
    shutil.copy(build(chosen_variant(), cache_directory(), find_compiler()), directory)
    finished = run(PROGRAM, PATH="", CXX="", XDG_CACHE_HOME=str(tmp_path))
    assert finished.stdout.split() == ["cpu"]
    assert "is not available" not in finished.stderr


def test_a_compiler_that_fails_is_named_with_its_words(tmp_path):
    broken = tmp_path / "broken-c++"
    broken.write_text("#!/bin/sh\necho no such standard >&2\nexit 1\n")
    broken.chmod(0o755)
    finished = run(PROGRAM, CXX=str(broken), XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert finished.stdout.splitlines()[0] == "torch"
    assert "failed:" in finished.stderr
    assert "no such standard" in finished.stderr


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NativeLibraryUnavailableError, match="cannot be written"):
        build(variants_of_this_cpu()[0], tmp_path / "file" / "cache", find_compiler())


def test_a_variant_that_this_cpu_does_not_run_is_refused():
    finished = run(PROGRAM, WAVE_ATTENTION_VARIANT="sve")
    assert "WAVE_ATTENTION_VARIANT=sve, but this CPU runs" in finished.stderr


@pytest.mark.parametrize("variant", variants_of_this_cpu(), ids=lambda variant: variant.name)
def test_each_variant_agrees_with_the_reference_on_ragged_shapes(variant):
    environment = os.environ | {
        "WAVE_ATTENTION_VARIANT": variant.name,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": IMPORTABLE,
    }
    finished = subprocess.run(
        [sys.executable, SWEEP, "27"], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert f"{variant.name}: " in finished.stdout


def test_amx_is_taken_where_the_cpu_has_it_and_linux_grants_its_registers():
    assert choose(list(VARIANTS), None, lambda: None).name == "amx"


def test_without_permission_for_tile_registers_the_next_variant_serves_and_a_line_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        assert choose(list(VARIANTS), None, lambda: "Operation not supported").name == "avx512bf16"
    assert [record.getMessage() for record in caplog.records] == [
        "Attention runs on variant 'avx512bf16', not on 'amx': Operation not supported"
    ]


def test_amx_that_was_asked_for_and_is_refused_raises():
    with pytest.raises(
        NativeLibraryUnavailableError, match="WAVE_ATTENTION_VARIANT=amx, but there is no permission: no"
    ):
        choose(list(VARIANTS), "amx", lambda: "no")


def test_linux_is_not_asked_for_tile_registers_where_another_variant_is_taken():
    def asked():
        raise AssertionError("asked")

    assert choose(list(VARIANTS), "avx2", asked).name == "avx2"
    assert choose(list(VARIANTS[1:]), None, asked).name == "avx512bf16"


@pytest.mark.skipif(has_tiles(), reason="this CPU has AMX, so Linux may grant its registers")
def test_linux_refuses_tile_registers_that_the_cpu_has_not():
    assert tile_refusal().startswith("arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA): ")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the compiler makes code for this machine's architecture")
def test_the_amx_variant_is_built_on_a_machine_without_amx(tmp_path, monkeypatch):
    """As the image's build does it, but hardly optimised: that takes three times as long."""
    monkeypatch.setattr(
        native_library, "FLAGS", tuple("-O1" if flag == "-O3" else flag for flag in native_library.FLAGS)
    )
    library = build(VARIANTS[0], tmp_path, find_compiler())
    code = subprocess.run(["objdump", "-d", library], capture_output=True, text=True, check=True).stdout
    assert all(name in code for name in ("ldtilecfg", "tileloadd", "tdpbf16ps", "tilestored", "tilerelease"))


@pytest.mark.skipif(not has_tiles(), reason="this CPU has no AMX")
def test_tile_registers_give_the_bits_of_their_emulation():
    digests = [run(DIGEST, WAVE_ATTENTION_VARIANT=name).stdout for name in ("amx", "amx-emulated")]
    assert digests[0] == digests[1]


def test_the_bits_of_emulated_tile_registers_do_not_depend_on_the_number_of_threads():
    digests = [run(DIGEST, WAVE_ATTENTION_VARIANT="amx-emulated", OMP_NUM_THREADS=n).stdout for n in ("1", "3")]
    assert digests[0] == digests[1] != ""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bits_do_not_depend_on_the_number_of_threads(dtype):
    case = paged_case([1777, 63, 9000, 5000], [300, 63, 1, 9], H=8, d=64, block_size=128, R=900, dtype=dtype)
    before = torch.get_num_threads()
    try:
        outputs = []
        for threads in (1, 2, 3, 4):
            torch.set_num_threads(threads)
            outputs.append(wavelet_attention(*case.arguments(), impl="cpu"))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(outputs[0], out) for out in outputs[1:])


def test_the_library_runs_on_the_openmp_runtime_that_torch_loaded():
    program = """
import pathlib, torch
from model_registry.attention.native.library import load_library
def runtimes():
    lines = pathlib.Path("/proc/self/maps").read_text().splitlines()
    return {line.split()[-1] for line in lines if "gomp" in line or "iomp" in line}
before = runtimes()
load_library()
print(len(before), runtimes() == before)
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.split() == ["1", "True"]


@pytest.mark.parametrize(
    ("file", "struct", "in_python", "size"),
    [
        ("attention.cpp", "Arguments", KernelArguments, "wavelet_attention_arguments_size"),
        ("cache_write.h", "CacheWrite", CacheWriteArguments, "wavelet_write_cache_size"),
    ],
)
def test_the_kernels_arguments_have_the_same_fields_in_python_and_in_c(file, struct, in_python, size):
    """Python fills the structure that C++ reads: fields of one size could change places without a sound."""
    body = re.search(rf"struct {struct} \{{(.*?)\}};", (SOURCES / file).read_text(), re.DOTALL)[1]
    declared = [(name, int(length or 1)) for name, length in re.findall(r"\**(\w+)(?:\[(\d)\])?[,;]", body)]
    assert declared == [(name, getattr(kind, "_length_", 1)) for name, kind in in_python._fields_]
    assert getattr(load_library()[0], size)() == ctypes.sizeof(in_python)
