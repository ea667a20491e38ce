"""Memory of the CPU implementations does not grow with queries x keys."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.python import IMPORTABLE

SCRIPT = Path(__file__).with_name("peak_memory.py")


@pytest.mark.parametrize(
    ("R", "megabytes"),
    [(760, 32), (190_000, 128)],
    ids=["local table", "table longer than the context"],
)
@pytest.mark.parametrize("impl", ["cpu", "torch"])
def test_a_512_token_chunk_at_32k_context_stays_small(R, megabytes, impl):
    """The dense float32 scores of 8 heads alone would take 512 MB.

    The growth is 15 to 70 MB: how many freed pages the allocator keeps varies from run to run.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": IMPORTABLE}
    run = subprocess.run(
        [sys.executable, SCRIPT, str(R), impl], env=environment, capture_output=True, text=True, check=True, timeout=300
    )
    assert int(run.stdout) < megabytes * 10**6
