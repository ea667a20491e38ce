"""What the drill has shown: holds clients' outcomes against the engines' records, and looks for what is left behind."""

import itertools
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.drill.clients import Outcome
from benchmarks.drill.world import EXACT_RATE, LEASE, SLOTS, World

Record = list[Any]  # time, what happened, the request's id, figures
ZERO_AT_THE_END = (
    "wave_in_flight_requests",
    "wave_queue_requests",
    "wave_queue_prompt_tokens",
    "wave_upstream_requests",
)


def repeated(records: Iterable[Record]) -> list[str]:
    """Requests that an engine was asked for after one had begun to answer them."""
    begun: set[str] = set()
    found = []
    for _, what, name, *_ in records:
        if what == "begun":
            begun.add(name)
        elif what == "asked" and name in begun:
            found.append(name)
    return found


def unexplained(outcomes: Iterable[Outcome], world: World) -> list[Outcome]:
    """Outcomes that no client should see: late or malformed ones, and broken ones whose gateway was not killed then."""
    return [
        one
        for one in outcomes
        if one.what in ("late", "malformed")
        or (
            one.what in ("cut", "unanswered")
            and not any(one.begun <= back and gone <= one.ended for gone, back in world.gateways[one.gateway].away)
        )
    ]


def hit_rate(records: Iterable[Record], outcomes: Iterable[Outcome]) -> float:
    """Tokens that the engines' caches held, of those of these requests."""
    names = {one.name for one in outcomes if one.name.startswith("plain")}
    asked = [record for record in records if record[1] == "asked" and record[2] in names]
    return float(sum(record[4] for record in asked) / max(1, sum(record[3] for record in asked)))


def exactness(outcomes: Iterable[Outcome], begun: float, ended: float) -> dict[str, Any]:
    """How many requests of the key `exact` passed in a time in which it always asked for more, and how many may."""
    passed = [
        one for one in outcomes if one.name.startswith("exact") and one.status == 200 and begun <= one.begun <= ended
    ]
    first = min(one.begun for one in passed)
    last = max(one.begun for one in passed)
    expected = EXACT_RATE + int((last - first) * EXACT_RATE / 60)
    return {"passed": len(passed), "allowed": expected, "seconds": round(last - first, 1)}


def lives(outcomes: list[Outcome], away: list[tuple[float, float]]) -> list[dict[str, Any]]:
    """The same for each life of a Redis, which forgets all when it is killed; no fault lets more pass than may."""
    begins = [0.0, *(back for _, back in away)]
    ends = [*(gone for gone, _ in away), time.time()]
    found = []
    for begun, ended in zip(begins, ends, strict=True):
        passed = [one for one in outcomes if one.name.startswith("exact") and one.status == 200]
        passed = [one for one in passed if begun <= one.begun and one.ended <= ended]
        if passed:
            seconds = max(one.ended for one in passed) - min(one.begun for one in passed)
            allowed = EXACT_RATE + int(seconds * EXACT_RATE / 60)
            found.append({"passed": len(passed), "allowed": allowed, "seconds": round(seconds, 1)})
    return found


def most_at_once(outcomes: Iterable[Outcome], blind: list[tuple[float, float]]) -> int:
    """Most requests of the key `slots` that were being answered at the same time, outside of some times."""
    answers = [one for one in outcomes if one.name.startswith("slots") and one.status == 200]
    changes = sorted([(one.head, 1) for one in answers] + [(one.ended, -1) for one in answers])
    most = running = 0
    for at, change in changes:
        running += change
        if not any(first <= at <= last for first, last in blind):
            most = max(most, running)
    return most


def left_behind(world: World) -> dict[str, Any]:
    """What a gateway still holds once nobody asks it: nothing but its memory."""
    found: dict[str, Any] = {}
    for number, port in enumerate(world.ports):
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", headers=_bearer(world)).text
        samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
        urls = {sample.labels["base_url"] for sample in samples if "base_url" in sample.labels}
        pid = world.gateways[number].process.pid
        found[f"gateway-{number}"] = {
            "not_zero": [f"{one.name}{one.labels}" for one in samples if one.name in ZERO_AT_THE_END and one.value],
            "upstreams_in_metrics": len(urls),
            "open_files": len(list(Path(f"/proc/{pid}/fd").iterdir())),
            "rss_mib": rss_mib(pid),
        }
    return found


def rss_mib(pid: int) -> float:
    """Resident memory of a process."""
    return round(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**20, 1)


def report(world: World, outcomes: list[Outcome], faults: list[tuple[float, str]]) -> dict[str, Any]:
    """The drill's result; `passed` says whether it is as it should be."""
    records = world.records()
    again, strange = repeated(records), unexplained(outcomes, world)
    # What a Redis that is killed forgets: which requests run, until the gateways renew their leases.
    blind = [(gone, back + LEASE) for gone, back in world.redis.away]
    most = most_at_once(outcomes, blind)
    left = left_behind(world)
    exact = lives(outcomes, world.redis.away)
    by_key = Counter((one.name.partition("-")[0], one.what) for one in outcomes)
    return {
        "engines": "vllm" if world.real else "stand-ins",
        "requests": len(outcomes),
        "outcomes": {f"{key} {what}": count for (key, what), count in sorted(by_key.items())},
        "codes": dict(Counter(one.code for one in outcomes if one.code).most_common()),
        "faults": dict(Counter(fault for _, fault in faults)),
        "begun_and_repeated": None if world.real else again,  # vLLM keeps no such record
        "unexplained": [vars(one) for one in itertools.islice(strange, 20)],
        "slowest_s": round(max(one.ended - one.begun for one in outcomes), 1),
        "slots": {"allowed": SLOTS, "most_at_once": most},
        "exact": exact,
        "left_behind": left,
        "passed": not again
        and not strange
        and most <= SLOTS
        and all(one["passed"] <= one["allowed"] for one in exact)
        and not any(one["not_zero"] for one in left.values()),
    }


def wait_until_idle(world: World, seconds: float = 60) -> None:
    """Returns once no engine works any more, by the gateways' word."""
    deadline = time.monotonic() + seconds
    while any(one["not_zero"] for one in left_behind(world).values()) and time.monotonic() < deadline:
        time.sleep(0.5)


def _bearer(world: World) -> dict[str, str]:
    return {"authorization": f"Bearer {world.keys['plain']}"}
