"""Prefix-cache hits of 40 questions about 8 documents at two vLLM engines: through the gateway, and round robin.

    python -m benchmarks.gateway.routing [--rounds N] [--document-tokens N] [--concurrency N]

Two engines serve the bundled model. Each round asks 5 questions about each of 8 documents in a shuffled order, under a
system prompt that all share: once through the gateway, once with the engines by turns, with fresh texts for each so
that nothing is cached before. Hits and tokens are the engines' own counts. The best possible is one engine with room
for everything, asked one question after another, simulated block by block.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import httpx
import yaml
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.servers import START_SECONDS, free_port, machine, wait_ready
from wave_serve.engine.checkpoint import bundled_checkpoint
from wave_serve.engine.command import ONE_PROCESS

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/results/routing.json"
MODEL = "model"
DOCUMENTS = 8
QUESTIONS = 5
QUESTION_TOKENS = 40
SYSTEM_TOKENS = 300
IDS = range(10, 2000)

Prompt = list[int]


def start_engine(checkpoint: Path, log: Path) -> tuple[subprocess.Popen[bytes], str]:
    """A vLLM server with its prefix cache; it may not be ready yet."""
    port = free_port()
    environment = os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    command = [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry", "--model", str(checkpoint)]
    command += ["--served-model-name", MODEL, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--enforce-eager", *ONE_PROCESS, "--max-model-len", "32768", "--disable-uvicorn-access-log"]
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
    return process, f"http://127.0.0.1:{port}"


def start_gateway(engines: list[str], folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """The gateway before both engines; it may not be ready yet."""
    port = free_port()
    settings = {
        "port": port,
        "models": {MODEL: {"max_tokens": 32768}},
        "upstreams": [{"base_url": url, "models": [MODEL]} for url in engines],
    }
    config = folder / "gateway.yaml"
    config.write_text(yaml.safe_dump(settings))
    program = "from wave_serve.cli.main import main; main()"
    with (folder / "gateway.log").open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", program, "gateway", "--config", str(config)], stdout=out, stderr=out
        )
    return process, f"http://127.0.0.1:{port}"


def wait_for_upstreams(url: str, engines: int) -> None:
    """Returns once the gateway, which is ready with one, has all engines."""
    deadline = time.monotonic() + START_SECONDS
    while list(httpx.get(f"{url}/ready").json()["upstreams"].values()) != ["ready"] * engines:
        if time.monotonic() > deadline:
            raise RuntimeError(httpx.get(f"{url}/ready").text)
        time.sleep(0.2)


def questions(seed: int, document_tokens: int) -> list[Prompt]:
    """One round's prompts: system prompt, document, question; in a shuffled order."""
    rng = random.Random(seed)  # noqa: S311 - a text, not a secret
    system = rng.choices(IDS, k=SYSTEM_TOKENS)
    documents = [rng.choices(IDS, k=document_tokens + rng.randrange(document_tokens // 4)) for _ in range(DOCUMENTS)]
    found = [[*system, *one, *rng.choices(IDS, k=QUESTION_TOKENS)] for one in documents for _ in range(QUESTIONS)]
    rng.shuffle(found)
    return found


def best_possible(prompts: list[Prompt], block: int) -> float:
    """Hits / tokens of one cache that never forgets and is asked one prompt after another."""
    seen: set[tuple[int, ...]] = set()
    hits = 0
    for prompt in prompts:
        blocks = [tuple(prompt[: end + block]) for end in range(0, len(prompt) - block + 1, block)]
        hits += block * sum(1 for _ in itertools.takewhile(seen.__contains__, blocks))
        seen.update(blocks)
    return hits / sum(map(len, prompts))


def ask(urls: list[str], prompts: list[Prompt], concurrency: int) -> None:
    """Asks all prompts, each of `urls` by turns."""

    def one(prompt: Prompt, target: str) -> None:
        body = {"model": MODEL, "prompt": prompt, "max_tokens": 1, "temperature": 0}
        httpx.post(f"{target}/v1/completions", json=body, timeout=600).raise_for_status()

    with ThreadPoolExecutor(concurrency) as pool:
        list(pool.map(one, prompts, itertools.cycle(urls)))


def counts(engine: str) -> Counter[str]:
    """An engine's counters of looked-up and hit tokens and finished requests, and its block size."""
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(httpx.get(f"{engine}/metrics").text):
        for sample in family.samples:
            if sample.name == "vllm:prefix_cache_queries_total":
                found["tokens"] += int(sample.value)
            elif sample.name == "vllm:prefix_cache_hits_total":
                found["hits"] += int(sample.value)
            elif sample.name == "vllm:request_success_total":
                found["requests"] += int(sample.value)
            elif sample.name == "vllm:cache_config_info":
                found["block"] = int(sample.labels["block_size"])
    return found


def measure(engines: list[str], prompts: list[Prompt], target: list[str], concurrency: int) -> dict[str, object]:
    """What the engines' counters say of one run."""
    before = [counts(engine) for engine in engines]
    ask(target, prompts, concurrency)
    after = [counts(engine) for engine in engines]
    tokens = [new["tokens"] - old["tokens"] for new, old in zip(after, before, strict=True)]
    hits = [new["hits"] - old["hits"] for new, old in zip(after, before, strict=True)]
    requests = [new["requests"] - old["requests"] for new, old in zip(after, before, strict=True)]
    assert sum(requests) == len(prompts), f"{requests} requests were finished, not {len(prompts)}"
    assert sum(tokens) == sum(map(len, prompts)), "a prompt was looked up twice (preempted?)"
    best = best_possible(prompts, after[0]["block"])
    rate = sum(hits) / sum(tokens)
    return {
        "hit_rate": round(rate, 4),
        "best_possible": round(best, 4),
        "of_best": round(rate / best, 4),
        "most_of_share": round(max(tokens) / (sum(tokens) / len(tokens)), 4),
        "requests": requests,
    }


def main() -> None:
    """Runs the rounds and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--document-tokens", type=int, default=3000)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    processes: list[subprocess.Popen[bytes]] = []
    rounds: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        try:
            engines = []
            for number in range(2):  # one after the other: two starts at once need twice the memory
                log = folder / f"engine-{number}.log"
                process, url = start_engine(bundled_checkpoint(), log)
                processes.append(process)
                wait_ready(process, f"{url}/health", log)
                engines.append(url)
            process, gateway = start_gateway(engines, folder)
            processes.append(process)
            wait_ready(process, f"{gateway}/ready", folder / "gateway.log")
            wait_for_upstreams(gateway, 2)
            for number in range(given.rounds):
                for place, (name, target) in enumerate({"gateway": [gateway], "round_robin": engines}.items()):
                    prompts = questions(2 * number + place, given.document_tokens)
                    row = {"round": number, "routing": name} | measure(engines, prompts, target, given.concurrency)
                    print(json.dumps(row))
                    rounds.append(row)
        finally:
            for process in reversed(processes):
                process.terminate()
            for process in processes:
                process.wait(60)
    ours = [row for row in rounds if row["routing"] == "gateway"]
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "vllm": version("vllm"),
        "setting": {key: value for key, value in vars(given).items() if key != "out"},
        "rounds": rounds,
        "worst_of_best": min(row["of_best"] for row in ours),
        "worst_share": max(row["most_of_share"] for row in ours),
    }
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"gateway: at least {result['worst_of_best']} of the best possible, at most {result['worst_share']} x share")


if __name__ == "__main__":
    main()
