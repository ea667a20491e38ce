"""``vllm bench serve`` on a wavelet model and on its rotary twin: what the positions cost a server.

    python -m benchmarks.serving.gpu_rates [--output FILE]
    python -m benchmarks.serving.gpu_rates --smoke     tiny, wherever vLLM runs: that it runs, not how fast

A quarter of Llama-3-8B: 8 of its 32 layers, with the bundled tokenizer's small vocabulary, so that attention's share of
a step is at least that of the whole model. Weights are random and the same shape for both, so nothing is downloaded;
the text is noise. The twin runs on vLLM's own attention: on Hopper the ratio is that of the two kernels as well.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.attention.gpu import environment
from benchmarks.servers import free_port, wait_ready

ROOT = Path(__file__).parents[2]
TOKENIZER = ROOT / "model_registry/demo/wave-demo"
RESULTS = ROOT / "benchmarks/results/serving_gpu.json"
FIGURES = ("median_ttft_ms", "median_tpot_ms", "output_throughput", "total_token_throughput", "duration")
LAYER = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "num_hidden_layers": 8,
}
TINY = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_hidden_layers": 2,
}
# Input tokens, output tokens, prompts, requests at a time.
LOADS = ((32000, 128, 16, 16), (1000, 128, 128, 64))
TINY_LOADS = ((100, 4, 2, 2),)


def checkpoint(folder: Path, encoding: str, shape: dict[str, int], longest: int) -> Path:
    """A model directory without weights: the bundled model's tokenizer and config, in another shape."""
    target = folder / encoding
    target.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(TOKENIZER / name, target)
    config = json.loads((TOKENIZER / "config.json").read_text()) | shape
    position: dict[str, Any] = {"type": encoding}
    if encoding == "wavelet":
        position |= {"wavelet": "ricker", "scale_exponents": [*range(8)], "shifts": [*range(shape["head_dim"] // 8)]}
    config |= {"position_encoding": position, "logit_scaling": "none", "logit_scaling_length": None}
    config |= {"near_bias_slope": 0.0, "near_bias_keys": None, "max_position_embeddings": longest}
    (target / "config.json").write_text(json.dumps(config))
    return target


def start(model: Path, smoke: bool, log: Path) -> tuple[subprocess.Popen[bytes], str]:
    """A vLLM server and its URL; it may not be ready yet. Two share the GPU, so neither measures its free memory."""
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(model), "--load-format", "dummy"]
    command += ["--dtype", "bfloat16", "--host", "127.0.0.1", "--port", str(port), "--no-enable-prefix-caching"]
    command += ["--kv-cache-memory-bytes", str(2**26 if smoke else 20 * 2**30)]
    command += ["--enforce-eager"] if smoke else ["--gpu-memory-utilization", "0.4"]
    process = subprocess.Popen(command, stdout=log.open("wb"), stderr=subprocess.STDOUT)
    return process, f"http://127.0.0.1:{port}"


def bench(model: Path, url: str, load: tuple[int, int, int, int]) -> dict[str, float]:
    """The figures of one run of ``vllm bench serve``, in this process: it imported vLLM while the servers started."""
    from vllm.benchmarks import serve
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    tokens_in, tokens_out, prompts, concurrency = load
    options = ["--base-url", url, "--model", str(model), "--dataset-name", "random", "--ignore-eos", "--disable-tqdm"]
    options += ["--seed", "1", "--temperature", "0"]
    options += ["--random-input-len", str(tokens_in), "--random-output-len", str(tokens_out)]
    options += ["--num-prompts", str(prompts), "--max-concurrency", str(concurrency)]
    parser = FlexibleArgumentParser()
    serve.add_cli_args(parser)
    result = serve.main(parser.parse_args(options))
    if result["completed"] != prompts:
        raise RuntimeError(f"{result['completed']} of {prompts} requests were answered")
    return {name: result[name] for name in FIGURES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a tiny model and one tiny load")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--go", type=Path, help="once both serve create this with suffix .ready, and wait for it")
    options = parser.parse_args()
    loads, shape = (TINY_LOADS, TINY) if options.smoke else (LOADS, LAYER)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    report: dict[str, Any] = {
        "smoke": options.smoke,
        "environment": environment("cpu" if options.smoke else None),
        "model": shape,
        "rows": [],
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder, servers = Path(scratch), {}
        longest = max(load[0] + load[1] for load in loads) + 64
        models = {name: checkpoint(folder, name, shape, longest) for name in ("wavelet", "rope")}
        try:
            for name, model in models.items():
                servers[name] = start(model, options.smoke, folder / f"{name}.log")
            importlib.import_module("vllm.benchmarks.serve")  # takes seconds, as the servers' start does
            for name, (process, url) in servers.items():
                wait_ready(process, f"{url}/health", folder / f"{name}.log")
            if options.go is not None:
                options.go.with_suffix(".ready").touch()
                while not options.go.exists():
                    time.sleep(0.2)
            for load in loads:
                row: dict[str, Any] = dict(zip(("input", "output", "prompts", "concurrency"), load, strict=True))
                for name, (_, url) in servers.items():
                    row[name] = bench(models[name], url, load)
                row["wavelet / rope"] = {name: row["wavelet"][name] / row["rope"][name] for name in FIGURES}
                report["rows"].append(row)
                print(json.dumps(row), flush=True)
                options.output.parent.mkdir(parents=True, exist_ok=True)
                options.output.write_text(json.dumps(report, indent=1) + "\n")
        finally:
            for process, _ in servers.values():
                process.terminate()
            for process, _ in servers.values():
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
