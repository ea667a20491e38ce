"""What the gateway adds to a request, beside direct access and LiteLLM's proxy on the same bodies.

    python -m benchmarks.gateway.cost --litellm /path/to/venv/bin/litellm    # latency, requests a vCPU, /health
    python -m benchmarks.gateway.cost --soak 30                              # memory and leaks in 30 minutes of abuse

A mock upstream on the same machine answers after a time that each request sets, half to one and a half times a mean:
requests that all take as long would keep arriving in bursts, which no real engine's do. Direct, gateway and LiteLLM are
asked by turns, round after round. Latency is what a request takes beyond its time at the mock; added latency is a
quantile of it through a proxy less the same quantile without one. Requests a vCPU are answered requests by CPU seconds
of the proxy's processes, taken from a run that keeps the proxy busy.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from benchmarks.gateway import processes
from benchmarks.gateway.bodies import LONG_TOKENS, SHORT_TOKENS, maker, spread
from benchmarks.gateway.client import Connection, Load, closed_loop, get, post
from benchmarks.gateway.processes import Process
from benchmarks.gateway.soak import soak
from benchmarks.servers import machine
from wave_serve.engine.checkpoint import bundled_checkpoint

RESULTS = Path(__file__).parents[1] / "results"
BUSY = 0.0  # seconds that the mock takes while the proxies' cost is measured
BIG_BODY = 27_000_000
MIXES: dict[str, dict[str, Any]] = {
    "short": {"lengths": (SHORT_TOKENS,), "concurrency": 16, "upstream_s": 0.1, "requests": 1600, "busy": 1600},
    # The same 200 tokens as a chat and as a response, which the mock counts, as an engine would.
    "chat": {
        "lengths": (SHORT_TOKENS,),
        "concurrency": 16,
        "upstream_s": 0.1,
        "requests": 1600,
        "busy": 1600,
        "path": "/v1/chat/completions",
    },
    "responses": {
        "lengths": (SHORT_TOKENS,),
        "concurrency": 16,
        "upstream_s": 0.1,
        "requests": 1600,
        "busy": 1600,
        "path": "/v1/responses",
    },
    # Documents that were asked about before, each request with a first line of its own.
    "long": {"lengths": LONG_TOKENS, "concurrency": 4, "upstream_s": 0.5, "requests": 120, "busy": 3000},
    # Documents that differ all the way, so that nothing is known of any.
    "unseen": {
        "lengths": LONG_TOKENS,
        "concurrency": 4,
        "upstream_s": 0.5,
        "requests": 120,
        "busy": 3000,
        "every": 2000,
    },
}


def quantiles(seconds: list[float]) -> dict[str, float]:
    """p50, p95 and p99 in milliseconds."""
    cut = statistics.quantiles(seconds, n=100, method="inclusive")
    return {name: 1000 * cut[at - 1] for name, at in (("p50_ms", 50), ("p95_ms", 95), ("p99_ms", 99))}


async def measure_mix(name: str, arms: dict[str, Process], tokenizer: Tokenizer, scale: float, rounds: int) -> Any:
    """Latency through every arm, and what a request costs each proxy."""
    mix = MIXES[name]
    waited: dict[str, Load] = {arm: Load() for arm in arms}
    cost: dict[str, list[float]] = {arm: [] for arm in arms}
    requests = max(8, round(mix["requests"] * scale / rounds))
    busy = max(8, round(mix["busy"] * scale / rounds))
    makers = {
        (arm, mean): maker(
            process.port,
            tokenizer,
            mix["lengths"],
            spread(mean),
            stream=False,
            every=mix.get("every"),
            path=mix.get("path", "/v1/completions"),
        )
        for arm, process in arms.items()
        for mean in (mix["upstream_s"], BUSY)
    }
    for arm, process in arms.items():  # imports, connections and first-use caches
        await closed_loop(process.port, makers[arm, BUSY], mix["concurrency"], 2 * mix["concurrency"])
    for turn in range(rounds):
        for arm in (*arms,) if turn % 2 == 0 else (*reversed(arms),):
            process = arms[arm]
            mean = mix["upstream_s"]
            apart = mean / mix["concurrency"]
            load = await closed_loop(process.port, makers[arm, mean], mix["concurrency"], requests, apart)
            waited[arm].seconds += load.seconds
            _check(arm, load)
            before = process.cpu_seconds()
            load = await closed_loop(process.port, makers[arm, BUSY], mix["concurrency"], busy)
            _check(arm, load)
            cost[arm].append((process.cpu_seconds() - before) / busy)
    found: dict[str, Any] = {}
    direct = quantiles(waited["direct"].seconds)
    for arm in arms:
        own = quantiles(waited[arm].seconds)
        found[arm] = {"requests": len(waited[arm].seconds), **own}
        if arm != "direct":
            found[arm]["added"] = {key: own[key] - direct[key] for key in own}
            found[arm]["requests_per_vcpu_second"] = 1 / statistics.fmean(cost[arm])
            found[arm]["rss_mib"] = arms[arm].rss_mib()
    return {key: value for key, value in mix.items() if key != "busy"} | {"rounds": rounds, "arms": found}


async def measure_health(process: Process, seconds: float) -> dict[str, Any]:
    """Time of /health while bodies of 27 MB arrive, four at a time."""
    loop = asyncio.get_running_loop()
    text = json.dumps({"model": "bench", "prompt": "word " * (BIG_BODY // 5), "max_tokens": 1}).encode()
    ids = json.dumps({"model": "bench", "prompt": [51_234] * (BIG_BODY // 7), "max_tokens": 1}).encode()
    end = loop.time() + seconds
    sent: dict[int, int] = {}

    async def flood(path: str, body: bytes) -> None:
        connection = Connection(process.port)
        while loop.time() < end:
            status, _ = await connection.send(post(process.port, path, body))
            sent[status] = sent.get(status, 0) + 1
        connection.close()

    async def probe() -> list[float]:
        connection, waits = Connection(process.port), []
        while loop.time() < end:
            started = loop.time()
            await connection.send(get(process.port, "/health"))
            waits.append(loop.time() - started)
            await asyncio.sleep(0.05)
        connection.close()
        return waits

    paths = ("/v1/completions", "/v1/completions", "/v1/context", "/tokenize")
    floods = (flood(path, body) for path, body in zip(paths, (text, ids, text, text), strict=True))
    waits, *_ = await asyncio.gather(probe(), *floods)
    return {"seconds": seconds, "bodies": sent, "probes": len(waits), **quantiles(waits), "most_ms": 1000 * max(waits)}


async def compare(chosen: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Everything that this file measures but the soak."""
    path = bundled_checkpoint() / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    arms = {"direct": processes.mock(path, scratch)}
    try:
        arms["wave-serve"] = processes.wave_serve(arms["direct"], path, scratch)
        if chosen.litellm:
            arms["litellm"] = processes.litellm(arms["direct"], chosen.litellm, scratch)
        mixes = {name: await measure_mix(name, arms, tokenizer, chosen.scale, chosen.rounds) for name in chosen.mixes}
        health = await measure_health(arms["wave-serve"], chosen.health)
    finally:
        for process in reversed(arms.values()):
            process.stop()
    return {"mixes": mixes, "health_under_27_mb_bodies": health}


def described(results: dict[str, Any], chosen: argparse.Namespace) -> dict[str, Any]:
    """The results with how they came about."""
    versions = {
        name: version(name) for name in ("wave-serve", "aiohttp", "uvicorn", "fastapi", "tokenizers", "splintr-rs")
    }
    if chosen.litellm:
        site = next(Path(chosen.litellm).parent.parent.glob("lib/python*/site-packages/litellm-*.dist-info"))
        versions["litellm"] = site.name.removeprefix("litellm-").removesuffix(".dist-info")
    return {
        "command": "python -m benchmarks.gateway.cost " + " ".join(sys.argv[1:]),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "versions": versions,
        **results,
    }


def _check(arm: str, load: Load) -> None:
    if load.others:
        raise RuntimeError(f"{arm} answered with {load.others}")


def main() -> None:
    """Measures, prints and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--litellm", help="LiteLLM's command; left out without it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the requests, for a trial")
    parser.add_argument("--mixes", nargs="+", choices=list(MIXES), default=list(MIXES))
    parser.add_argument("--health", type=float, default=20.0, help="seconds of 27 MB bodies")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="only this: the long mix, abused")
    parser.add_argument("--out", type=Path, help="by default benchmarks/results/gateway[_soak].json")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        run = soak(chosen.soak, Path(directory)) if chosen.soak else compare(chosen, Path(directory))
        results = described(asyncio.run(run), chosen)
    out = chosen.out or RESULTS / ("gateway_soak.json" if chosen.soak else "gateway.json")
    out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
