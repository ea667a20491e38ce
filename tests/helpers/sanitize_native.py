"""Runs the sweep of the native kernel under the address and undefined-behaviour sanitizers. Slow, so not a test.

usage: sanitize_native.py [COUNT [VARIANT ...]]
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from helpers.python import IMPORTABLE
from model_registry.attention.native.library import FLAGS, SOURCES, file_name, find_compiler, variants_of_this_cpu

SWEEP = Path(__file__).with_name("native_sweep.py")
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g", "-O1")

count, variants = sys.argv[1] if len(sys.argv) > 1 else "81", sys.argv[2:]
compiler = find_compiler()
runtime = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout
with tempfile.TemporaryDirectory() as scratch:
    directory = Path(scratch) / "wave-serve"
    directory.mkdir()
    for variant in variants_of_this_cpu():
        if variants and variant.name not in variants:
            continue
        # Under the name that the loader looks for in the cache, where it does not build what is there.
        library = directory / file_name(variant)
        source = str(SOURCES / "attention.cpp")
        subprocess.run([compiler, *FLAGS, *variant.options, *SANITIZE, "-shared", source, "-o", library], check=True)
        environment = os.environ | {
            "WAVE_ATTENTION_VARIANT": variant.name,
            "XDG_CACHE_HOME": scratch,
            "LD_PRELOAD": runtime.strip(),
            "ASAN_OPTIONS": "detect_leaks=0",  # of the interpreter
            "OMP_NUM_THREADS": "2",
            "PYTHONPATH": IMPORTABLE,
        }
        subprocess.run([sys.executable, SWEEP, count], env=environment, check=True)
