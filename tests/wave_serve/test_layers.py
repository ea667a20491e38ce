"""The gateway needs no engine: its packages import nothing heavy, proved in fresh interpreters."""

import subprocess
import sys

HEAVY = ("torch", "vllm", "transformers", "model_registry", "numpy")
IMPORT_ALL = """
import importlib, pkgutil, sys
import wave_serve
for module in pkgutil.walk_packages(wave_serve.__path__, "wave_serve."):
    if not module.name.startswith("wave_serve.eval"):
        importlib.import_module(module.name)
"""
HELP = """
import sys
from wave_serve.cli import main
sys.argv = ["wave-serve", "--help"]
try:
    main.main()
except SystemExit as end:
    assert end.code == 0
"""


def loaded_by(program: str) -> set[str]:
    listing = program + "\nprint('modules:', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("modules:")[2].split())


def test_no_module_of_the_gateway_imports_an_engine_or_the_models() -> None:
    loaded = loaded_by(IMPORT_ALL)
    assert "wave_serve.relay.relay" in loaded
    assert not loaded.intersection(HEAVY)


def test_listing_the_commands_imports_none_of_the_added_ones() -> None:
    assert not loaded_by(HELP).intersection(HEAVY)
