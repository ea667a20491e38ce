"""Runs Python programs in processes of their own, with the project and these helpers importable."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
IMPORTABLE = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
"""``PYTHONPATH`` for a program that imports ``model_registry`` and ``helpers``."""


def run(*command, **environment):
    """Standard output of ``python COMMAND`` in the root of the project; the test fails if the program does."""
    variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": IMPORTABLE} | environment
    finished = subprocess.run(
        [sys.executable, *command], env=variables, cwd=ROOT, capture_output=True, text=True, check=False, timeout=900
    )
    assert finished.returncode == 0, finished.stdout[-6000:] + finished.stderr[-3000:]
    return finished.stdout
