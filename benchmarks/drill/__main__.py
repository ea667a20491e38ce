"""Ten minutes of faults at two gateways, three engines and a Redis; before that, limits and cache hits in calm.

    python -m benchmarks.drill [--minutes N] [--calm SECONDS] [--real] [--out FILE]

First one gateway serves the mix for --calm seconds, then two do, before fresh engines and a fresh Redis, while a key
asks for more than its rate at both. Then the faults begin. The engines are stand-ins that compute nothing (engine.py);
with --real, vLLM's with the bundled model, there is nothing but faults.
"""

import argparse
import asyncio
import json
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from benchmarks.drill import judge
from benchmarks.drill.clients import Clients
from benchmarks.drill.faults import Faults
from benchmarks.drill.world import World
from benchmarks.servers import machine, wait_ready

RESULTS = Path(__file__).parents[1] / "results"
PLAIN, EXACT, SLOTS = 12, 2, 4  # clients of each key
REAL_PLAIN = 3
ENDING_SECONDS = 3.0  # for idle connections to close


def start(scratch: Path, gateways: int, *, real: bool = False) -> World:
    """Parts that are ready for requests, with all engines."""
    scratch.mkdir()
    world = World(scratch, gateways, real=real)
    for part, port in zip(world.gateways, world.ports, strict=True):
        wait_ready(part.process, f"http://127.0.0.1:{port}/ready", scratch / f"{part.name}.log")
        while set(httpx.get(f"http://127.0.0.1:{port}/ready").json()["upstreams"].values()) != {"ready"}:
            time.sleep(0.2)
    return world


def calm(scratch: Path, gateways: int, seconds: float) -> dict[str, Any]:
    """Hit rate and limits without any fault."""
    world = start(scratch, gateways)
    try:
        clients = Clients(world, seed=1)
        begun = time.time()
        asyncio.run(clients.run(seconds, PLAIN, EXACT, SLOTS))
        judge.wait_until_idle(world)
        records = world.records()
        return {
            "hit_rate": round(judge.hit_rate(records, clients.outcomes), 4),
            "exact": judge.exactness(clients.outcomes, begun, time.time()),
            "slots": judge.most_at_once(clients.outcomes, []),
            "requests": len(clients.outcomes),
            "unexplained": len(judge.unexplained(clients.outcomes, world)),
        }
    finally:
        world.stop()


def drill(scratch: Path, minutes: float, *, real: bool) -> dict[str, Any]:
    """What became of the mix while things went wrong."""
    world = start(scratch, 2, real=real)
    plain = REAL_PLAIN if real else PLAIN
    try:
        clients, faults = Clients(world, seed=2), Faults(world, seed=3)

        async def both() -> None:
            await asyncio.gather(clients.run(60 * minutes + 5, plain, EXACT, SLOTS), faults.run(60 * minutes))

        asyncio.run(both())
        judge.wait_until_idle(world)
        time.sleep(ENDING_SECONDS)
        return judge.report(world, clients.outcomes, faults.done)
    finally:
        world.stop()


def main() -> None:
    """Runs the drill and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--calm", type=float, default=60)
    parser.add_argument("--real", action="store_true", help="vLLM engines with the bundled model")
    parser.add_argument("--out", type=Path, help="results/drill.json, with --real drill_real.json")
    given = parser.parse_args()
    result = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine(), "minutes": given.minutes}
    with tempfile.TemporaryDirectory() as scratch:
        for number, name in ((1, "one_gateway"), (2, "two_gateways")) if not given.real else ():
            result[f"calm_{name}"] = calm(Path(scratch) / name, number, given.calm)
            print(f"calm, {name}:", json.dumps(result[f"calm_{name}"]), flush=True)
        result["drill"] = drill(Path(scratch) / "drill", given.minutes, real=given.real)
    out = given.out or RESULTS / ("drill_real.json" if given.real else "drill.json")
    out.write_text(json.dumps(result, indent=1) + "\n")
    print("drill:", json.dumps(result["drill"], indent=1))


if __name__ == "__main__":
    main()
