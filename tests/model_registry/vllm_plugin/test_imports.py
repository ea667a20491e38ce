"""Imports point one way: what must load without vLLM does, in a fresh interpreter."""

import subprocess
import sys

import pytest


def modules_after(statement: str) -> set[str]:
    program = f"{statement}\nimport sys\nprint(*sys.modules)"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(finished.stdout.split())


def test_importing_the_plugin_package_is_cheap() -> None:
    loaded = modules_after("import model_registry")
    assert not loaded & {"vllm", "torch", "transformers", "numpy"}


@pytest.mark.parametrize(
    "module",
    [
        "model_registry.wavelet",
        "model_registry.positions.wavelet",
        "model_registry.attention",
    ],
)
def test_the_math_loads_without_vllm_and_http(module: str) -> None:
    loaded = modules_after(f"import {module}")
    assert module in loaded
    assert not loaded & {"vllm", "fastapi", "uvicorn", "wave_serve"}


def test_attention_needs_torch_alone() -> None:
    loaded = modules_after("import model_registry.attention, model_registry.attention.native.op")
    assert "torch" in loaded
    assert "transformers" not in loaded
