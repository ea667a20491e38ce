"""Gateways that know nothing of each other send a document to the same engine, and none gets much over its share."""

import random
from collections import Counter

import pytest

from wave_serve.routing.prefixes import prefixes_of
from wave_serve.routing.router import Demand, Router
from wave_serve.settings import NewDocuments, RoutingSettings, TimeoutSettings
from wave_serve.upstream.upstream import Upstream

DOCUMENTS, EACH, LENGTH, SYSTEM = 24, 10, 12_000, 2_000  # bytes
SECONDS_APART = 0.5


class Gateways:
    """Routers with upstreams of their own, before the same engines, which forget nothing; time is simulated."""

    def __init__(self, gateways: int, engines: int, new_documents: NewDocuments) -> None:
        self.now = 0.0
        self.sent: Counter[str] = Counter()
        self.hits = 0
        settings = RoutingSettings(new_documents=new_documents)
        self._routers = [Router(settings, lambda: self.now) for _ in range(gateways)]
        self._upstreams = [
            [Upstream(f"http://10.0.0.{engine}:8000", ("m",), TimeoutSettings()) for engine in range(engines)]
            for _ in range(gateways)
        ]
        self._cached: dict[str, set[str]] = {one.base_url: set() for one in self._upstreams[0]}

    def ask(self, gateway: int, system: str, document: str, question: str) -> str:
        """Sends it through one of the gateways; it is done before the next one comes."""
        prompt = system + document + question
        upstreams = self._upstreams[gateway]
        demand = Demand(len(prompt), "", upstreams, prefixes_of("m", {"prompt": prompt}))
        chosen = self._routers[gateway].choose(demand, upstreams, upstreams).base_url
        known = self._cached[chosen]
        self.hits += (system in known) * len(system) + (document in known) * len(document)
        known |= {system, document}
        self.sent[chosen] += len(prompt)
        self.now += SECONDS_APART
        return chosen

    def hit_rate(self, seed: int) -> float:
        """Of questions about documents in a shuffled order, each through any gateway."""
        rng = random.Random(seed)
        system = rng.randbytes(SYSTEM // 2).hex()
        documents = [rng.randbytes(int(LENGTH * rng.uniform(0.25, 1))).hex() for _ in range(DOCUMENTS)]
        asked = [document for document in documents for _ in range(EACH)]
        rng.shuffle(asked)
        for document in asked:
            question = rng.randbytes(rng.randrange(10, 100)).hex()
            self.ask(rng.randrange(len(self._routers)), system, document, question)
        return self.hits / self.sent.total()


@pytest.mark.parametrize("engines", [2, 3, 5, 8])
@pytest.mark.parametrize("gateways", [2, 3, 4])
def test_the_hit_rate_of_several_is_within_three_points_of_one(gateways: int, engines: int) -> None:
    one = several = 0.0
    shares = []
    for seed in range(6):
        one += Gateways(1, engines, NewDocuments.LEAST_LOADED).hit_rate(seed) / 6
        bench = Gateways(gateways, engines, NewDocuments.HASHED)
        several += bench.hit_rate(seed) / 6
        shares.append(max(bench.sent.values()) / (bench.sent.total() / engines))
    assert several >= one - 0.03
    assert max(shares) <= 2


def test_all_gateways_choose_the_same_engine_and_keep_to_it_when_another_joins() -> None:
    rng = random.Random(1)
    documents = [rng.randbytes(4000).hex() for _ in range(60)]
    chosen = []
    for engines in (4, 4, 5):
        bench = Gateways(60, engines, NewDocuments.HASHED)  # each has seen nothing yet
        chosen.append([bench.ask(number, "", document, "?") for number, document in enumerate(documents)])
    before, same, after = chosen
    assert before == same
    assert len(set(before)) == 4
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {"http://10.0.0.4:8000"}
    assert len(moved) <= 60 / 5 * 2


@pytest.mark.parametrize("prompt", ["hi", "x" * 600])
def test_a_short_prompt_goes_to_the_least_loaded(prompt: str) -> None:
    upstreams = [Upstream(f"http://10.0.0.{engine}:8000", ("m",), TimeoutSettings()) for engine in range(5)]
    for upstream in upstreams[:4]:
        upstream.take(100_000)
    router = Router(RoutingSettings(new_documents=NewDocuments.HASHED), lambda: 0.0)
    demand = Demand(100, "", upstreams, prefixes_of("m", {"prompt": prompt}))
    assert router.choose(demand, upstreams, upstreams) is upstreams[4]
