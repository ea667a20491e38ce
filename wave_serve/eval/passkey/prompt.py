"""Builds a passkey prompt of an exact number of tokens."""

import random
from dataclasses import dataclass

from wave_serve.eval.endpoint import Endpoint
from wave_serve.eval.errors import LengthError
from wave_serve.eval.passkey import episode


@dataclass(frozen=True)
class Trial:
    """One question: at `length` tokens, the key after `depth` percent of the filler."""

    length: int
    number: int
    depth: float
    key: str


class PromptBuilder:
    """Builds the prompt of a trial from token ids, so that prompt and answer together have exactly its length."""

    def __init__(self, endpoint: Endpoint, filler: list[int], question: list[int], seed: int) -> None:
        self.endpoint = endpoint
        self._filler = filler
        self._question = question
        self._seed = seed
        self._episodes: dict[str, tuple[list[int], int]] = {}

    async def prompt(self, trial: Trial) -> tuple[list[int], int]:
        """Token ids of the prompt, and the number of tokens of the answer.

        Raises:
            LengthError: the length leaves no room for filler.
        """
        hidden, answer_tokens = await self._episode(trial.key)
        room = trial.length - len(hidden) - len(self._question) - answer_tokens
        if room < 1:
            raise LengthError(
                f"length {trial.length} is too short for a passkey on endpoint {self.endpoint.name}: "
                f"the episode alone has {trial.length - room} tokens"
            )
        draw = random.Random(f"{self._seed}/{trial.length}/{trial.number}")  # noqa: S311 - a test item, not a secret
        start = draw.randrange(len(self._filler) - room + 1)
        split = start + round(room * trial.depth / 100)
        filler = self._filler
        return [*filler[start:split], *hidden, *filler[split : start + room], *self._question], answer_tokens

    async def _episode(self, key: str) -> tuple[list[int], int]:
        if key not in self._episodes:
            hidden = await self.endpoint.tokenize(episode.hidden(key))
            self._episodes[key] = hidden, len(await self.endpoint.tokenize(episode.answer(key)))
        return self._episodes[key]
