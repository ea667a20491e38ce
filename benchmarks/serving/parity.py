"""Real vLLM on this machine against the dense reference: cases and bounds of ``tests/helpers/engine_parity.py``.

python -m benchmarks.serving.parity [--rehearse] [--output FILE]

Chunked prefill, a prefix cache that is used, and decode, with CUDA graphs and without; prompts in one kernel and, where
vLLM has FlashAttention, in two parts, with a bonus for near keys too. ``--rehearse`` runs one case, without graphs, on
whatever vLLM finds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "tests" / "helpers" / "engine_parity.py"
FLOAT32_BOUND = 1e-3
SHARE = {"gpu_memory_utilization": 0.4}
"""Of a GPU that other checks may use at the same time."""
GRAPHS = {
    "enforce_eager": False,
    "compilation_config": {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": [1, 2, 4]},
}


def case(
    heads: int, kv_heads: int, head_dim: int, exponents: range, logit_scaling: str, dtype: str, engine: dict
) -> dict:
    wavelet = {
        "type": "wavelet",
        "wavelet": "ricker",
        "scale_exponents": [*exponents],
        "shifts": [*range(head_dim // len(exponents))],
    }
    return {
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "logit_scaling": logit_scaling,
        "dtype": dtype,
        "engine": engine,
        "position_encoding": wavelet,
    }


CASES = [
    case(4, 4, 64, range(16), "none", "float32", {}),
    case(4, 2, 32, range(8), "log_n", "float32", GRAPHS),
    case(4, 1, 128, range(8), "none", "bfloat16", GRAPHS) | {"environment": {"WAVELET_GPU_PREFILL": "fused"}},
]
SPLIT = {"environment": {"WAVELET_GPU_PREFILL": "split"}}
BONUS = {"near_bias_slope": 0.3, "near_bias_keys": 768}
SPLIT_CASES = [
    CASES[2] | SPLIT,
    case(8, 2, 64, range(8), "log_n", "bfloat16", GRAPHS) | BONUS | SPLIT,
]


def has_flash_attention() -> bool:
    """Whether vLLM has one for this GPU. Asked in another process: this one starts engines and takes no GPU."""
    asks = (
        "import sys; from vllm.v1.attention.backends import fa_utils; sys.exit(not fa_utils.get_flash_attn_version())"
    )
    return subprocess.run([sys.executable, "-c", asks], check=False, capture_output=True).returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rehearse", action="store_true", help="the first case only")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cases, found = Path(folder) / "cases.json", Path(folder) / "results.json"
        if options.rehearse:
            asked = CASES[:1]
        else:
            asked = CASES + (SPLIT_CASES if has_flash_attention() else [])
            asked = [c | {"engine": SHARE | c["engine"]} for c in asked]
        cases.write_text(json.dumps(asked))
        # A rounded product would hide in TF32 what the bound of float32 is there to show.
        environment = os.environ | {"NVIDIA_TF32_OVERRIDE": "0"}
        subprocess.run([sys.executable, SCRIPT, cases, found], check=True, env=environment)
        results = json.loads(found.read_text())
    for result in results:
        if result["case"]["dtype"] == "float32":
            result["passed"] = max(result["prefill"], result["decode"]) <= FLOAT32_BOUND
        else:
            result["passed"] = result["prefill_rms"] <= 2 * result["torch_bf16_rms"]
        result["passed"] &= result["cached_tokens"] > 0
        print("ok    " if result["passed"] else "FAILED", json.dumps(result))
    if options.output:
        options.output.write_text(json.dumps(results, indent=1) + "\n")
    sys.exit(0 if all(result["passed"] for result in results) else 1)


if __name__ == "__main__":
    main()
