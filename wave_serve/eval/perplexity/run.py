"""Scores texts at several lengths and keeps the loss of every token."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.progress import Progress

from wave_serve.eval.endpoint import Endpoint
from wave_serve.eval.errors import LengthError, OutputError, TextError
from wave_serve.eval.journal import Journal, key_of
from wave_serve.eval.perplexity.plan import Span, longest_prompt, prompts, sample_starts
from wave_serve.eval.perplexity.rows import Losses, loss_row, sum_up
from wave_serve.eval.perplexity.scoring import find_scoring, losses
from wave_serve.eval.perplexity.subject import Subject
from wave_serve.eval.runner import bar, check_limit, each, open_endpoints, token_lengths
from wave_serve.eval.settings import PerplexitySettings, Protocol
from wave_serve.eval.texts import Document, byte_length, held_out_documents, read_document, tokenize_documents

PROBE = "def area(width, height):\n    return width * height\n"
PROBE_NATS = 0.05  # mean difference per token that rounding in bfloat16 does not reach
DECIMALS = 6


class PerplexityRun:
    """`wave-serve eval perplexity`; what `measure` finished is in `rows`, however it ended."""

    def __init__(self, settings: PerplexitySettings, journal: Journal) -> None:
        self.settings = settings
        self.lengths: list[int] = []
        self.documents: list[Document] = []
        self.subjects: list[Subject] = []
        self._journal = journal
        self._end_tokens = 0

    async def measure(self, progress: Progress) -> None:
        """Scores all that is not in the journal. Raises EvalError."""
        settings = self.settings
        self.documents = [read_document(path) for path in settings.texts] or held_out_documents()
        async with open_endpoints(settings) as endpoints:
            lengths = token_lengths(settings, endpoints)
            self._check_lengths(endpoints, lengths)
            subjects = [await self._prepare(endpoint, lengths[-1]) for endpoint in endpoints]
            self.lengths, self.subjects = lengths, subjects
            work = [
                (subject, span) for subject in subjects for length in lengths for span in self._spans(subject, length)
            ]
            done = bar(progress, "tokens scored", sum(span.end - span.start for _, span in work))
            await each(work, settings.parallel, lambda item: self._score(*item, done))

    def rows(self) -> list[dict[str, Any]]:
        """One row per endpoint and length of which a prompt was scored, shortest first."""
        return [row for subject in self.subjects for row in self._rows(subject)]

    def facts(self) -> dict[str, Any]:
        """What the results say beside the rows."""
        settings = self.settings
        return {
            "protocol": settings.protocol,
            "end_tokens": self._end_tokens,
            "block_tokens": settings.block_tokens,
            "resamples": settings.resamples,
            "seed": settings.seed,
            "texts": [document.description() for document in self.documents],
            "endpoints": [subject.description() for subject in self.subjects],
        }

    def _check_lengths(self, endpoints: list[Endpoint], lengths: list[int]) -> None:
        protocol = self.settings.protocol
        shortest = []
        for endpoint in endpoints:
            if protocol is Protocol.NON_OVERLAPPING and endpoint.train_length is None:
                raise LengthError(f"endpoint {endpoint.name} tells no training length; give --train-length")
            for length in lengths:
                longest = longest_prompt(length, protocol, endpoint.train_length)
                check_limit(endpoint, length, longest + 1)
                shortest.append(longest)
        self._end_tokens = self.settings.end_tokens or min(shortest) // 2
        if self._end_tokens >= min(shortest):
            raise LengthError(
                f"--end-tokens {self._end_tokens} must be below the shortest prompt, {min(shortest)} tokens"
            )

    async def _prepare(self, endpoint: Endpoint, longest: int) -> Subject:
        probe = await endpoint.tokenize(PROBE)
        scoring, nats = await find_scoring(endpoint, probe)
        self._check_same_model(endpoint, probe, nats)
        ids = await tokenize_documents(endpoint, self.documents, self.settings.separator)
        starts = sample_starts(len(ids), longest, self.settings.samples)
        if not starts:
            raise TextError(
                f"the text has {len(ids)} tokens on endpoint {endpoint.name}; length {longest} needs {longest}"
            )
        samples = [ids[start : start + longest] for start in starts]
        size = sum([byte_length(await endpoint.detokenize(sample)) for sample in samples])
        return Subject(endpoint, scoring, samples, starts, len(ids), size / (longest * len(samples)))

    def _check_same_model(self, endpoint: Endpoint, probe: list[int], nats: list[float]) -> None:
        key = key_of(endpoint.name, endpoint.model, "probe", probe)
        earlier = self._journal.get(key)
        if earlier is None:
            self._journal.add(key, {"endpoint": endpoint.name, "model": endpoint.model, "probe": PROBE, "nats": nats})
            return
        apart = sum(abs(new - old) for new, old in zip(nats, earlier["nats"], strict=True)) / len(nats)
        if apart > PROBE_NATS:
            raise OutputError(
                f"{self._journal.path} was measured on another model: on endpoint {endpoint.name}, {endpoint.model} "
                f"now scores a probe {apart:.3f} nats per token apart; give another --out"
            )

    def _spans(self, subject: Subject, length: int) -> list[Span]:
        train_length = subject.endpoint.train_length
        return prompts(len(subject.samples), len(subject.samples[0]), length, self.settings.protocol, train_length)

    async def _score(self, subject: Subject, span: Span, done: Callable[[int], None]) -> None:
        key = subject.key(span)
        if self._journal.get(key) is None:
            ids = subject.ids(span)
            nats = await losses(subject.endpoint, subject.scoring, ids)
            endpoint = subject.endpoint
            record = {"endpoint": endpoint.name, "model": endpoint.model, "tokens": len(ids)}
            self._journal.add(key, record | {"nats": [round(value, DECIMALS) for value in nats]})
        done(span.end - span.start)

    def _rows(self, subject: Subject) -> list[dict[str, Any]]:
        endpoint, lengths = subject.endpoint, self.lengths
        reference = endpoint.train_length if endpoint.train_length in lengths else lengths[0]
        by_length = {length: self._losses(subject, length) for length in lengths}
        rows = []
        for length, summed in by_length.items():
            if not summed.blocks:
                continue
            spans = self._spans(subject, length)
            prompts_scored = sum(self._journal.get(subject.key(span)) is not None for span in spans)
            row = {
                "endpoint": endpoint.name,
                "model": endpoint.model,
                "length": length,
                "multiple": length / endpoint.train_length if endpoint.train_length else None,
                "prompts": prompts_scored,
                "complete": prompts_scored == len(spans),
                "reference_length": reference,
            }
            compared = None if length == reference else by_length[reference]
            rows.append(row | loss_row(summed, compared, subject.bytes_per_token, self.settings))
        return rows

    def _losses(self, subject: Subject, length: int) -> Losses:
        scored = self._scored(subject, self._spans(subject, length))
        return sum_up(scored, len(subject.samples[0]), self._end_tokens, self.settings.block_tokens)

    def _scored(self, subject: Subject, spans: list[Span]) -> Iterator[tuple[Span, Sequence[float]]]:
        for span in spans:
            record = self._journal.get(subject.key(span))
            if record is not None:
                yield span, record["nats"]
