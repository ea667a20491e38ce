"""Documents at many simulated engines: each is read in few places, and no engine gets much more than its share."""

import heapq
import itertools
import random
from collections import Counter
from dataclasses import dataclass

import pytest

from wave_serve.routing.prefixes import DEEPEST, DEPTHS, Prefixes
from wave_serve.routing.router import RECENT_LEAST, Demand, Router
from wave_serve.settings import RoutingSettings, TimeoutSettings
from wave_serve.upstream.upstream import Upstream

TOKEN_BYTES = 4
QUESTION = 40  # tokens
READ = 20_000.0  # tokens per second that an engine has not cached
ANSWER = 0.02  # seconds per request beside that


@dataclass(frozen=True)
class Question:
    """One of several about a document of `length` tokens under a system prompt of `system` tokens."""

    number: int
    document: int
    length: int
    system: int

    @property
    def tokens(self) -> int:
        return self.system + self.length + QUESTION

    def prefixes(self) -> Prefixes:
        ends = (self.system * TOKEN_BYTES, (self.system + self.length) * TOKEN_BYTES)
        names = ("system", f"document {self.document}", f"question {self.number}")
        depths = [depth for depth in DEPTHS if depth <= self.tokens * TOKEN_BYTES]
        digests = [(depth, f"{names[sum(depth > end for end in ends)]} {depth}".encode()) for depth in depths]
        return Prefixes(min(self.tokens * TOKEN_BYTES, DEEPEST), tuple(digests))


def questions(documents: int, each: int, system: int, skewed: bool) -> list[Question]:
    """In a shuffled order; of skewed documents a few are many times longer than most."""
    rng = random.Random(documents)
    lengths = [int(min(30_000, 3000 * rng.lognormvariate(0, 1))) if skewed else 3000 for _ in range(documents)]
    about = [document for document in range(documents) for _ in range(each)]
    rng.shuffle(about)
    return [Question(number, document, lengths[document], system) for number, document in enumerate(about)]


class Engines:
    """A router before engines that do one request after another and forget nothing; time is simulated."""

    def __init__(self, count: int) -> None:
        self.upstreams = [Upstream(f"http://engine-{n}", ("m",), TimeoutSettings()) for n in range(count)]
        self.usable = list(self.upstreams)
        self.now = 0.0
        self.sent: Counter[Upstream] = Counter()
        self.hits = 0
        self._router = Router(RoutingSettings(), lambda: self.now)
        self._cached: dict[Upstream, set[object]] = {upstream: set() for upstream in self.upstreams}
        self._idle_from = dict.fromkeys(self.upstreams, 0.0)
        self._running: list[tuple[float, int, Upstream, int]] = []
        self._order = itertools.count()

    def ask(self, question: Question) -> Upstream:
        """Sends it now; it is done when its engine has done what it got before, and read what it has not cached."""
        demand = Demand(question.tokens, "", self.upstreams, question.prefixes())
        upstream = self._router.choose(demand, self.usable, self.usable)
        known = self._cached[upstream]
        hits = ("system" in known) * question.system + (question.document in known) * question.length
        known |= {"system", question.document}
        self.hits += hits
        self.sent[upstream] += question.tokens
        upstream.outstanding_tokens += question.tokens
        done = max(self.now, self._idle_from[upstream]) + ANSWER + (question.tokens - hits) / READ
        self._idle_from[upstream] = done
        heapq.heappush(self._running, (done, next(self._order), upstream, question.tokens))
        return upstream

    def wait(self, most_running: int) -> None:
        """Returns when no more than so many requests run."""
        while len(self._running) > most_running:
            self.now, _, upstream, tokens = heapq.heappop(self._running)
            upstream.outstanding_tokens -= tokens

    def ask_all(self, given: list[Question], concurrency: int) -> None:
        for question in given:
            self.wait(concurrency - 1)
            self.ask(question)


@pytest.mark.parametrize("per_engine", [1, 4], ids=["little waits", "much waits"])
@pytest.mark.parametrize("skewed", [False, True], ids=["alike", "skewed"])
@pytest.mark.parametrize("system", [0, 1_000, 10_000, 50_000])
@pytest.mark.parametrize("engines", [2, 3, 5, 8, 12])
def test_no_engine_gets_over_its_share_and_most_of_what_could_be_cached_is(
    engines: int, system: int, skewed: bool, per_engine: int
) -> None:
    bench = Engines(engines)
    asked = questions(24, 15, system, skewed)
    bench.ask_all(asked, per_engine * engines)
    tokens = sum(question.tokens for question in asked)
    once = system + sum({question.document: question.length for question in asked}.values())
    assert max(bench.sent.values()) <= 1.5 * tokens / engines
    assert bench.hits >= 0.8 * (tokens - once - QUESTION * len(asked))


@pytest.mark.parametrize("engines", [5, 7, 10, 13])
def test_40_questions_about_8_documents_under_one_very_long_system_prompt_stay_even(engines: int) -> None:
    bench = Engines(engines)
    asked = questions(8, 5, 50_000, skewed=False)
    bench.ask_all(asked, 4)
    assert max(bench.sent.values()) <= 1.5 * sum(bench.sent.values()) / engines


def test_the_first_questions_in_a_row_about_a_document_go_to_one_of_many_engines() -> None:
    bench = Engines(16)
    asked = [Question(number, 0, 3000, 0) for number in range(RECENT_LEAST)]
    bench.ask_all(asked, 1)
    assert list(bench.sent) == [bench.upstreams[0]]


@pytest.mark.parametrize("engines", [2, 6, 12])
def test_an_engine_that_joins_gets_its_part_though_the_others_know_all_documents(engines: int) -> None:
    bench = Engines(engines)
    newcomer = bench.usable.pop()
    bench.ask_all(questions(24, 20, 10_000, skewed=False), engines)
    bench.usable.append(newcomer)
    bench.sent.clear()
    bench.ask_all(questions(24, 20, 10_000, skewed=False), engines)
    assert bench.sent[newcomer] >= 0.5 * sum(bench.sent.values()) / engines


def test_an_engine_that_stops_finishing_loses_its_documents_before_much_waits_there() -> None:
    bench = Engines(4)
    asked = questions(24, 20, 1000, skewed=False)
    bench.ask_all(asked, 4)
    bench.wait(0)
    stuck, at_it = bench.upstreams[0], 0
    for question in asked:
        at_it += bench.ask(question) is stuck
        for upstream in bench.upstreams[1:]:
            upstream.outstanding_tokens = 0
    assert at_it <= RECENT_LEAST + 1
