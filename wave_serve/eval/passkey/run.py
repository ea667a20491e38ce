"""Hides a key at several depths and lengths, and asks for it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.progress import Progress

from wave_serve.eval.endpoint import Endpoint
from wave_serve.eval.errors import TextError
from wave_serve.eval.intervals import wilson
from wave_serve.eval.journal import Journal, key_of
from wave_serve.eval.passkey import episode
from wave_serve.eval.passkey.depths import BINS, bin_of, chi_square, uniform_depth
from wave_serve.eval.passkey.filler import neutral_text
from wave_serve.eval.passkey.prompt import PromptBuilder, Trial
from wave_serve.eval.runner import bar, check_limit, each, open_endpoints, token_lengths
from wave_serve.eval.settings import PasskeySettings
from wave_serve.eval.texts import Document, read_document, tokenize_documents

FILLER_CHARACTERS = 2**16


class PasskeyRun:
    """`wave-serve eval passkey`; what `measure` finished is in `rows`, however it ended."""

    def __init__(self, settings: PasskeySettings, journal: Journal) -> None:
        self.settings = settings
        self.lengths: list[int] = []
        self.endpoints: list[Endpoint] = []
        self._document: Document | None = None
        self._journal = journal

    async def measure(self, progress: Progress) -> None:
        """Asks all that is not in the journal. Raises EvalError."""
        settings = self.settings
        self._document = read_document(settings.text) if settings.text else None
        async with open_endpoints(settings) as endpoints:
            lengths = token_lengths(settings, endpoints)
            for endpoint in endpoints:
                for length in lengths:
                    check_limit(endpoint, length, length)
            builders = [await self._builder(endpoint, lengths) for endpoint in endpoints]
            self.lengths, self.endpoints = lengths, endpoints
            work = [(builder, trial) for builder in builders for length in lengths for trial in self._trials(length)]
            done = bar(progress, "trials", len(work))
            await each(work, settings.parallel, lambda item: self._ask(*item, done))

    def rows(self) -> list[dict[str, Any]]:
        """One row per endpoint and length of which a trial was asked, shortest first."""
        found = (self._row(endpoint, length) for endpoint in self.endpoints for length in self.lengths)
        return [row for row in found if row is not None]

    def facts(self) -> dict[str, Any]:
        """What the results say beside the rows."""
        settings = self.settings
        return {
            "depths": settings.depths,
            "trials": settings.trials,
            "seed": settings.seed,
            "filler": "generated" if self._document is None else self._document.description(),
            "endpoints": [endpoint.description() for endpoint in self.endpoints],
        }

    def _trials(self, length: int) -> list[Trial]:
        seed = self.settings.seed
        return [
            Trial(length, number, self._depth(length, number), episode.draw_key(seed, number))
            for number in range(self.settings.trials)
        ]

    def _depth(self, length: int, number: int) -> float:
        depths = self.settings.depths
        if isinstance(depths, str):
            return uniform_depth(self.settings.seed, length, number)
        return depths[number % len(depths)]

    def _key(self, endpoint: Endpoint, trial: Trial) -> str:
        filler = None if self._document is None else self._document.description()["sha256"]
        parts = (self.settings.seed, filler, trial.length, trial.number, trial.depth)
        return key_of(endpoint.name, endpoint.model, "passkey", *parts)

    async def _builder(self, endpoint: Endpoint, lengths: list[int]) -> PromptBuilder:
        if self._document is not None:
            filler = await tokenize_documents(endpoint, [self._document], "")
        else:
            filler = []
            while len(filler) < 2 * lengths[-1]:
                filler += await endpoint.tokenize(neutral_text(FILLER_CHARACTERS, self.settings.seed + len(filler)))
        if len(filler) < lengths[-1]:
            longest = lengths[-1]
            raise TextError(
                f"the filler has {len(filler)} tokens on endpoint {endpoint.name}; length {longest} needs {longest}"
            )
        builder = PromptBuilder(endpoint, filler, await endpoint.tokenize(episode.question()), self.settings.seed)
        for trial in self._trials(lengths[0]):
            await builder.prompt(trial)  # a length too short for the episode is refused before the first question
        return builder

    async def _ask(self, builder: PromptBuilder, trial: Trial, done: Callable[[int], None]) -> None:
        endpoint = builder.endpoint
        key = self._key(endpoint, trial)
        if self._journal.get(key) is None:
            ids, answer_tokens = await builder.prompt(trial)
            text = (await endpoint.complete(ids, max_tokens=answer_tokens)).get("text")
            record = {
                "endpoint": endpoint.name,
                "model": endpoint.model,
                "length": trial.length,
                "trial": trial.number,
                "depth": trial.depth,
                "expected": trial.key,
                "text": text,
                "exact": isinstance(text, str) and episode.is_exact(text, trial.key),
            }
            self._journal.add(key, record)
        done(1)

    def _row(self, endpoint: Endpoint, length: int) -> dict[str, Any] | None:
        asked = [record for trial in self._trials(length) if (record := self._journal.get(self._key(endpoint, trial)))]
        if not asked:
            return None
        exact = _exact(asked)
        by_depth = self._by_depth(asked)
        return {
            "endpoint": endpoint.name,
            "model": endpoint.model,
            "length": length,
            "multiple": length / endpoint.train_length if endpoint.train_length else None,
            "trials": len(asked),
            "complete": len(asked) == self.settings.trials,
            "exact": exact,
            "accuracy": exact / len(asked),
            "accuracy_interval": wilson(exact, len(asked)),
            "by_depth": {
                str(depth): {"exact": _exact(some), "trials": len(some)} for depth, some in by_depth.items() if some
            },
            **self._drawn(asked),
        }

    def _by_depth(self, asked: Sequence[Mapping[str, Any]]) -> dict[float | str, list[Mapping[str, Any]]]:
        """The trials of each depth, or of each tenth where depths are drawn."""
        depths = self.settings.depths
        if isinstance(depths, str):
            return {label: [each for each in asked if bin_of(each["depth"]) == label] for label in BINS}
        return {depth: [each for each in asked if each["depth"] == depth] for depth in depths}

    def _drawn(self, asked: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """How evenly drawn depths turned out."""
        if not isinstance(self.settings.depths, str):
            return {}
        return {"depth_chi_square": chi_square([bin_of(record["depth"]) for record in asked])}


def _exact(records: list[Mapping[str, Any]]) -> int:
    return sum(bool(record["exact"]) for record in records)
