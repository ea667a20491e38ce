"""Real vLLM on this machine against the dense reference: a few cases of ``tests/engine/parity.py``, with its bounds.

python benchmarks/serving_parity.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "tests" / "engine" / "parity.py"
FLOAT32_BOUND = 1e-3


def case(heads: int, kv_heads: int, head_dim: int, exponents: range, logit_scaling: str, dtype: str) -> dict:
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
        "position_encoding": wavelet,
    }


CASES = [
    case(4, 2, 32, range(8), "log_n", "float32"),
    case(4, 4, 64, range(16), "none", "float32"),
    case(4, 1, 128, range(8), "none", "bfloat16"),
]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        cases, results = Path(folder) / "cases.json", Path(folder) / "results.json"
        cases.write_text(json.dumps(CASES))
        # A rounded product would hide in TF32 what the bound of float32 is there to show.
        environment = os.environ | {"NVIDIA_TF32_OVERRIDE": "0"}
        subprocess.run([sys.executable, SCRIPT, cases, results], check=True, env=environment)
        failed = 0
        for result in json.loads(results.read_text()):
            if result["case"]["dtype"] == "float32":
                passed = max(result["prefill"], result["decode"]) <= FLOAT32_BOUND
            else:
                passed = result["prefill_rms"] <= 2 * result["torch_bf16_rms"]
            failed += not passed
            print("ok    " if passed else "FAILED", json.dumps(result))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
