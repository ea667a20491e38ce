"""An endpoint under measurement, with the stretches of text that it is measured on."""

from dataclasses import dataclass
from typing import Any

from wave_serve.eval.endpoint import Endpoint
from wave_serve.eval.journal import key_of
from wave_serve.eval.perplexity.plan import Span
from wave_serve.eval.perplexity.scoring import Scoring


@dataclass(frozen=True)
class Subject:
    """One endpoint with its samples of the text: `samples[i]` are token ids, all of the same number."""

    endpoint: Endpoint
    scoring: Scoring
    samples: list[list[int]]
    starts: list[int]
    text_tokens: int
    bytes_per_token: float

    def key(self, span: Span) -> str:
        """Key of a prompt; equal prompts of several lengths and protocols share one."""
        return key_of(self.endpoint.name, self.endpoint.model, self.ids(span))

    def ids(self, span: Span) -> list[int]:
        """Token ids of a prompt."""
        return self.samples[span.sample][span.start : span.end]

    def description(self) -> dict[str, Any]:
        """What the results say of it."""
        endpoint = self.endpoint
        return {
            "name": endpoint.name,
            "base_url": endpoint.base_url,
            "model": endpoint.model,
            "train_length": endpoint.train_length,
            "max_model_len": endpoint.limit,
            "scoring": self.scoring,
            "text_tokens": self.text_tokens,
            "sample_starts": self.starts,
            "sample_tokens": len(self.samples[0]),
            "bytes_per_token": self.bytes_per_token,
        }
