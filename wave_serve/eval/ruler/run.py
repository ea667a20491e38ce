"""Asks the tasks at each length and scores the answers."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.progress import Progress

from wave_serve.eval.endpoint import Endpoint
from wave_serve.eval.errors import LengthError, OptionError
from wave_serve.eval.intervals import wilson
from wave_serve.eval.journal import Journal, key_of
from wave_serve.eval.ruler.tasks import TASKS, Example, score
from wave_serve.eval.runner import bar, check_limit, each, open_endpoints, token_lengths
from wave_serve.eval.settings import RulerSettings

FIRST_SIZE = 8
SPARE_TOKENS = 4  # of an answer, beside its characters: blanks, commas and the end
CLOSE = 0.98
"""A document of this share of the length or more is long enough; it is never longer than the length."""


@dataclass(frozen=True)
class Trial:
    """One question: a task at a length in tokens, and its number."""

    task: str
    length: int
    number: int


class RulerRun:
    """`wave-serve eval ruler`; what `measure` finished is in `rows`, however it ended."""

    def __init__(self, settings: RulerSettings, journal: Journal) -> None:
        self.settings = settings
        self.lengths: list[int] = []
        self.endpoints: list[Endpoint] = []
        self._journal = journal
        self._sizes: dict[tuple[str, str, int], int] = {}

    async def measure(self, progress: Progress) -> None:
        """Asks all that is not in the journal. Raises EvalError."""
        settings = self.settings
        for task in settings.tasks:
            if task not in TASKS:
                raise OptionError(f"--tasks {task!r}: choose among {', '.join(TASKS)}")
        async with open_endpoints(settings) as endpoints:
            lengths = token_lengths(settings, endpoints)
            for endpoint in endpoints:
                for length in lengths:
                    check_limit(endpoint, length, length)
                for task in settings.tasks:  # a length too short for a task is refused before the first question
                    await self._fitting(endpoint, Trial(task, lengths[0], 0))
            self.lengths, self.endpoints = lengths, endpoints
            work = [
                (endpoint, Trial(task, length, number))
                for endpoint in endpoints
                for length in lengths
                for task in settings.tasks
                for number in range(settings.trials)
            ]
            done = bar(progress, "trials", len(work))
            await each(work, settings.parallel, lambda item: self._ask(*item, done))

    def rows(self) -> list[dict[str, Any]]:
        """One row per endpoint, length and task of which a trial was asked, shortest first."""
        found = (
            self._row(endpoint, length, task)
            for endpoint in self.endpoints
            for length in self.lengths
            for task in self.settings.tasks
        )
        return [row for row in found if row is not None]

    def facts(self) -> dict[str, Any]:
        """What the results say beside the rows."""
        return {
            "tasks": list(self.settings.tasks),
            "trials": self.settings.trials,
            "seed": self.settings.seed,
            "endpoints": [endpoint.description() for endpoint in self.endpoints],
        }

    def _key(self, endpoint: Endpoint, trial: Trial) -> str:
        parts = (self.settings.seed, trial.task, trial.length, trial.number)
        return key_of(endpoint.name, endpoint.model, "ruler", *parts)

    async def _ask(self, endpoint: Endpoint, trial: Trial, done: Callable[[int], None]) -> None:
        key = self._key(endpoint, trial)
        if self._journal.get(key) is None:
            ids, example = await self._fitting(endpoint, trial)
            # A character is a token at most, but for what no task's answer holds.
            longest = trial.length - len(ids)
            choice = await endpoint.complete(ids, max_tokens=min(longest, example.answer_characters + SPARE_TOKENS))
            text = str(choice.get("text") or "").partition("\n")[0]
            record = {
                "endpoint": endpoint.name,
                "model": endpoint.model,
                "task": trial.task,
                "length": trial.length,
                "prompt_tokens": len(ids),
                "trial": trial.number,
                "expected": list(example.expected),
                "text": text,
                "score": score(text, example.expected),
            }
            self._journal.add(key, record)
        done(1)

    async def _fitting(self, endpoint: Endpoint, trial: Trial) -> tuple[list[int], Example]:
        """The largest document found that leaves room for its answer: token ids, and what it is.

        Raises:
            LengthError: not even the smallest leaves room.
        """
        kind = (endpoint.name, trial.task, trial.length)
        size = self._sizes.get(kind, FIRST_SIZE)
        best: tuple[list[int], Example] | None = None
        tried: set[int] = set()
        while size not in tried:
            tried.add(size)
            draw = random.Random(f"{self.settings.seed}/{trial}/{size}")  # noqa: S311 - a test item, not a secret
            example = TASKS[trial.task](size, draw)
            ids = await endpoint.tokenize(example.prompt)
            room = trial.length - example.answer_characters - SPARE_TOKENS
            if len(ids) <= room and (best is None or len(ids) > len(best[0])):
                best = ids, example
                self._sizes[kind] = size
                if len(ids) >= CLOSE * room:
                    break
            size = max(1, size * room // len(ids)) if room > 0 else 1
        if best is None:
            raise LengthError(
                f"length {trial.length} is too short for task {trial.task} on endpoint {endpoint.name}: its smallest "
                f"document and answer take more"
            )
        return best

    def _row(self, endpoint: Endpoint, length: int, task: str) -> dict[str, Any] | None:
        trials = [Trial(task, length, number) for number in range(self.settings.trials)]
        asked = [record for trial in trials if (record := self._journal.get(self._key(endpoint, trial)))]
        if not asked:
            return None
        right = sum(record["score"] == 1 for record in asked)
        return {
            "endpoint": endpoint.name,
            "model": endpoint.model,
            "task": task,
            "length": length,
            "multiple": length / endpoint.train_length if endpoint.train_length else None,
            "trials": len(asked),
            "complete": len(asked) == self.settings.trials,
            "score": _mean(asked, "score"),
            "right": right,
            "accuracy": right / len(asked),
            "accuracy_interval": wilson(right, len(asked)),
            "prompt_tokens": _mean(asked, "prompt_tokens"),
        }


def _mean(records: list[Mapping[str, Any]], field: str) -> float:
    return sum(float(record[field]) for record in records) / len(records)
