"""How many threads splintr begins; it does so once in a process, so that each case has one of its own."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import json, os
from wave_serve.engine.checkpoint import bundled_checkpoint
from wave_serve.tokens import fast_tokenizer

def threads():
    return len(os.listdir("/proc/self/task"))

fast_tokenizer.cores = lambda: {cores}
description = json.loads((bundled_checkpoint() / "tokenizer.json").read_text())
before = threads()
fast = fast_tokenizer.FastTokenizer(description)
begun = threads() - before
fast.counts(["some words " * 9000] * 99)
print(begun, threads() - before, os.environ.get("RAYON_NUM_THREADS"))
"""


@pytest.mark.parametrize(
    ("cores", "given", "begun"), [(1, None, 1), (2, None, 1), (6, None, 3), (64, None, 4), (2, "5", 5), (64, "2", 2)]
)
def test_half_as_many_threads_as_cores_begin_or_as_many_as_the_environment_says(
    cores: int, given: str | None, begun: int
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAYON_NUM_THREADS"}
    if given is not None:
        environment["RAYON_NUM_THREADS"] = given
    command = [sys.executable, "-c", SCRIPT.format(cores=cores)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [str(begun), str(begun), str(given)]
