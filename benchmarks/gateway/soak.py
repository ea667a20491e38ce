"""Minutes of long requests, of which a fifth leave early and a tenth are invalid: what do they leave behind?"""

import asyncio
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from benchmarks.gateway import processes
from benchmarks.gateway.bodies import LONG_TOKENS, invalid, maker
from benchmarks.gateway.client import Request, closed_loop
from benchmarks.gateway.processes import Process
from wave_serve.engine.checkpoint import bundled_checkpoint

CONCURRENCY = 4
BATCH = 40
LEAVING, INVALID = 0.2, 0.1
FIRST_SECONDS = 0.2
REST = "8:0.1"  # tokens, seconds between them
FREED_SECONDS = 2.0
SAMPLE_SECONDS = 10.0


async def soak(minutes: float, scratch: Path) -> dict[str, Any]:
    """Memory by time, statuses, and what still runs at the end."""
    path = bundled_checkpoint() / "tokenizer.json"
    upstream = processes.mock(path, scratch)
    gateway = processes.wave_serve(upstream, path, scratch)
    try:
        return await _soak(minutes, Tokenizer.from_file(str(path)), upstream, gateway)
    finally:
        gateway.stop()
        upstream.stop()


async def _soak(minutes: float, tokenizer: Tokenizer, upstream: Process, gateway: Process) -> dict[str, Any]:
    make = maker(gateway.port, tokenizer, LONG_TOKENS, lambda _: FIRST_SECONDS, stream=True, rest=REST)
    draw = random.Random(0)  # noqa: S311 - a reproducible mix
    begun = time.monotonic()
    memory: list[tuple[float, float]] = []
    slowest_to_free = 0.0
    statuses: dict[int, int] = {}

    def next_request(number: int) -> Request:
        kind = draw.random()
        if kind < INVALID:
            return invalid(gateway.port, number)
        request = make(number)
        return replace(request, leave_after=draw.uniform(0.01, 1.0)) if kind < INVALID + LEAVING else request

    while time.monotonic() - begun < 60 * minutes:
        load = await closed_loop(gateway.port, next_request, CONCURRENCY, BATCH)
        statuses[200] = statuses.get(200, 0) + len(load.seconds)
        for status, count in load.others.items():
            statuses[status] = statuses.get(status, 0) + count
        slowest_to_free = max(slowest_to_free, await _until_idle(upstream))
        if not memory or time.monotonic() - begun - memory[-1][0] >= SAMPLE_SECONDS:
            memory.append((round(time.monotonic() - begun, 1), round(gateway.rss_mib(), 1)))
    await asyncio.sleep(3)  # idle connections expire after two seconds
    left = upstream.stats()
    gauges = [line for line in gateway.get("/metrics").splitlines() if line.startswith("wave_in_flight_requests")]
    memory.append((round(time.monotonic() - begun, 1), round(gateway.rss_mib(), 1)))
    reference = next((rss for at, rss in memory if at >= 300), memory[0][1])
    return {
        "minutes": minutes,
        "statuses": statuses,
        "aborted_at_upstream": left["aborted"],
        "running_at_upstream": left["running"],
        # Two connections are no leak: the gateway's to /health, and this one to /stats.
        "connections_at_upstream": left["connections"],
        "slowest_to_free_s": slowest_to_free,
        "freed_within_2_s": slowest_to_free <= FREED_SECONDS,
        "in_flight_gauges": gauges,
        "rss_mib_at_minute_5": reference,
        "rss_mib_at_the_end": memory[-1][1],
        "rss_mib": memory,
    }


async def _until_idle(upstream: Process) -> float:
    """Seconds after the last client has left until the upstream runs nothing any more."""
    started = time.monotonic()
    while (await asyncio.to_thread(upstream.stats))["running"]:
        if time.monotonic() - started > 60:
            raise RuntimeError("the upstream still works for clients that have left")
        await asyncio.sleep(0.02)
    return time.monotonic() - started
