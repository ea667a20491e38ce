"""What importing the Hugging Face side pulls in, seen by a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        (
            "model_registry.configuration_wavelet",
            ["vllm", "fastapi", "wave_serve", "transformers.models.llama.modeling_llama"],
        ),
        ("model_registry.modeling_wavelet", ["vllm", "fastapi", "wave_serve"]),
        ("model_registry.training.loop", ["vllm", "fastapi", "wave_serve", "matplotlib"]),
        ("model_registry.training.cli", ["vllm", "wave_serve", "torch", "transformers"]),
    ],
)
def test_importing_a_module_loads_nothing_it_does_not_need(module, absent):
    code = f"import sys, {module}; print([name for name in {absent} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
