"""Fits a request into its cap: measures it, truncates it where that was asked for, and decides."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from wave_serve.context.cap import Cap, Receipt, decide, truncation_budget, usage_headers
from wave_serve.context.catalogue import ServedModel
from wave_serve.context.truncation import Kept, Range, Truncation, Unit, cut, fewest_dropped, keep_tokens, turns_of
from wave_serve.errors import ApiError, ContextExceededError
from wave_serve.exchange import PromptRecord
from wave_serve.headers import Header
from wave_serve.request.dialects import Conversation
from wave_serve.request.generation import Generation, Prompt, check_sequences, check_token_ids, read_prompts
from wave_serve.settings import Overflow
from wave_serve.upstream.upstream import Upstream

LONGEST_HEADER = 2048  # characters; proxies refuse headers of some 8 KiB


@dataclass(frozen=True)
class Measured:
    """A request's prompts in tokens.

    Attributes:
        tokens: count of each prompt.
        prompts: the prompts themselves, of a completion.
        add_special_tokens: whether the counts include the tokenizer's special tokens.
        over_by_size: their size alone shows that they cannot fit, so they were not tokenised.
        exact: False where the counts are lower bounds.
        local: whether the local tokenizer counted them.
    """

    tokens: tuple[int, ...]
    prompts: tuple[Prompt, ...] = ()
    add_special_tokens: bool = True
    over_by_size: bool = False
    exact: bool = True
    local: bool = False


@dataclass(frozen=True)
class Truncated:
    """What is left of a request's prompts.

    Attributes:
        overflow: the policy by which they were cut.
        kept: what is kept of each.
        unit: of the ranges that are kept.
        changes: fields of the request's body to set.
        echoed_prefix: text of the special tokens before a prompt that is to be echoed: its client did not send them.
    """

    overflow: Overflow
    kept: tuple[Kept, ...]
    unit: Unit
    changes: dict[str, Any]
    echoed_prefix: str = ""

    @property
    def tokens(self) -> tuple[int, ...]:
        """Length of each prompt as it is sent."""
        return tuple(one.kept_tokens for one in self.kept)

    def as_json(self) -> Truncation:
        """As it is told in an answer's usage."""
        return {"overflow": self.overflow, "unit": self.unit, "prompts": [one.as_json() for one in self.kept]}

    def headers(self) -> dict[str, str]:
        """As it is told in response headers."""
        ranges = ";".join(one.as_header() for one in self.kept)
        return {
            Header.TRUNCATED: self.overflow.value,
            Header.ORIGINAL_TOKENS: str(max(one.original_tokens for one in self.kept)),
            f"x-wave-kept-{self.unit}s": ranges if len(ranges) <= LONGEST_HEADER else "see usage",
        }


@dataclass(frozen=True)
class Outcome:
    """The decision on a request: a receipt, or a refusal.

    Attributes:
        cap: what the request was held against.
        tokens: of each prompt, as it is sent or as it was refused.
        receipt: what is granted; None where the request is refused.
        refusal: the error that says why; None where the request is accepted.
        truncated_from: tokens of the longest prompt before it was truncated; None where it was not.
        truncated: what is left of the prompts, where they were truncated.
        changes: fields of the request's body to set.
        local: whether the local tokenizer counted what is sent.
    """

    cap: Cap
    tokens: tuple[int, ...]
    receipt: Receipt | None = None
    refusal: ApiError | None = None
    truncated_from: int | None = None
    truncated: Truncated | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    local: bool = False

    def accepted(self) -> Receipt:
        """The receipt. Raises the refusal where there is none."""
        if self.receipt is None:
            assert self.refusal is not None  # noqa: S101 - it has one or the other
            raise self.refusal
        return self.receipt

    def record(self) -> PromptRecord:
        """The decision as the request's exchange keeps it."""
        record = count_record(max(self.tokens), self.cap)
        if self.receipt is None:
            return record
        headers, extension = record.headers | self.receipt.headers(), None
        if self.truncated is not None:
            headers |= self.truncated.headers()
            extension = {"truncation": self.truncated.as_json()}
        return replace(
            record,
            completion_limit=self.receipt.completion_tokens,
            truncated_from=self.truncated_from,
            usage_extension=extension,
            headers=headers,
        )


def count_record(tokens: int, cap: Cap) -> PromptRecord:
    """What is recorded of a longest prompt of that many tokens before anything is decided."""
    return PromptRecord(tokens, cap.factor(tokens), headers=usage_headers(tokens, cap))


def check_size(prompt: str, model: ServedModel, key_limit: int | None) -> None:
    """Refuses a text that is only to be tokenised where its size shows that no truncation would take it either.

    Its tokenising would hold up the upstream's other requests. Raises ApiError 400.
    """
    if model.limit(key_limit) is None:
        return
    cap, fewest = model.cap(key_limit), model.counter.fewest(prompt)
    if fewest > cap.longest_truncated:
        raise ContextExceededError(fewest, 0, cap.limit, "prompt", at_least=True)


class Fitting:
    """One request held against the cap of its model. It decides, and leaves it to its caller to write that down."""

    def __init__(self, model: ServedModel, generation: Generation, cap: Cap) -> None:
        self._model = model
        self._generation = generation
        self._cap = cap
        self._ids: list[Sequence[int]] | None = None

    @property
    def overflow(self) -> Overflow:
        """What happens to a prompt that is too long: as the request says, else the model's policy."""
        asked, policy = self._generation.overflow, self._cap.policy.overflow
        if asked is None and policy is Overflow.REJECT and self._generation.truncates:
            return Overflow.TRUNCATE_HEAD
        return policy if asked is None else asked

    async def fit(self, upstream: Upstream) -> Outcome:
        """The decision on the request; `upstream` counts where the gateway cannot.

        Raises:
            ApiError: the request could not be answered at any length, or the upstream does not answer.
        """
        overflow = self.overflow
        longest_counted = self._cap.limit - 1 if overflow is Overflow.REJECT else self._cap.longest_truncated
        measured = await self.measure(upstream, longest_counted)
        if measured.over_by_size:
            return self.decide(measured.tokens, measured)
        truncated = await self.truncate(measured, upstream, overflow)
        if truncated is None:
            return self.decide(measured.tokens, measured)
        outcome = self.decide(truncated.tokens, measured)
        if outcome.receipt is None:
            return replace(outcome, tokens=measured.tokens)
        changes = truncated.changes | outcome.changes
        longest = max(measured.tokens)
        return replace(outcome, truncated_from=longest, truncated=truncated, changes=changes, local=False)

    def decide(self, tokens: tuple[int, ...], measured: Measured) -> Outcome:
        """The decision on prompts of those lengths."""
        asked, param = self._generation.max_tokens, self._generation.param
        try:
            if measured.over_by_size:
                completion = max(1, self._generation.min_tokens) if asked is None else asked
                limit, at_least = self._cap.limit, not measured.exact
                raise ContextExceededError(max(tokens), completion, limit, param, at_least=at_least)
            receipt = decide(max(tokens), asked, self._cap, param, self._generation.min_tokens)
        except ApiError as refusal:
            return Outcome(self._cap, tokens, refusal=refusal)
        granted = receipt.completion_tokens
        changes = {} if granted == asked else {self._generation.max_tokens_field: granted}
        return Outcome(self._cap, tokens, receipt, changes=changes, local=measured.local)

    async def measure(self, upstream: Upstream, longest_counted: int) -> Measured:
        """Tokens of each prompt; one whose size shows more than `longest_counted` is not tokenised.

        Raises:
            ApiError: 400, the prompts are none.
        """
        model, generation = self._model, self._generation
        dialect = generation.dialect
        if isinstance(dialect, Conversation):
            dialect.check(generation.payload)
            check_sequences(generation, 1, model.settings.max_sequences)
            fewest = model.counter.fewest(dialect.last_user_text(generation.payload))
            if fewest > longest_counted:
                return Measured((fewest,), over_by_size=True, exact=False)
            own = await model.counter.count_conversation(dialect, generation.payload, upstream)
            return Measured((generation.earlier + own,))
        prompts = read_prompts(generation.payload)
        check_sequences(generation, len(prompts), model.settings.max_sequences)
        bounds = tuple(model.counter.fewest(prompt) for prompt in prompts)
        if max(bounds) > longest_counted:
            longest = prompts[bounds.index(max(bounds))]
            return Measured(bounds, over_by_size=True, exact=not isinstance(longest, str))
        for prompt in prompts:
            if not isinstance(prompt, str):
                check_token_ids(prompt, model.settings.vocab_size)
                await asyncio.sleep(0)  # many long prompts must not hold up others
        special = generation.payload.get("add_special_tokens") is not False
        local = model.counter.local and any(isinstance(prompt, str) for prompt in prompts)
        tokens = await model.counter.count(prompts, upstream, add_special_tokens=special)
        return Measured(tuple(tokens), tuple(prompts), special, local=local)

    async def truncate(self, measured: Measured, upstream: Upstream, overflow: Overflow) -> Truncated | None:
        """Cuts the prompts to the cap; None where they need no cut, may not be cut, or would not fit even then."""
        asked, least = self._generation.max_tokens, self._generation.min_tokens
        budget = truncation_budget(max(measured.tokens), asked, self._cap, overflow, least)
        if budget is None:
            return None
        if isinstance(self._generation.dialect, Conversation):
            dialect, tokens = self._generation.dialect, measured.tokens[0]
            return await self._truncate_conversation(dialect, tokens, upstream, budget, overflow)
        counter = self._model.counter
        affixes = await counter.affixes(upstream)
        prompts, kept = [], []
        special = measured.add_special_tokens
        if self._ids is None:  # the preflight tries several policies
            self._ids = await counter.encode(measured.prompts, upstream, add_special_tokens=special)
        for ids in self._ids:
            ranges = keep_tokens(len(ids), budget, overflow, *affixes.around(ids))
            if ranges is None:
                return None
            if len(ranges) > 1 or ranges[0] != (0, len(ids)):
                ranges = await counter.whole_characters(ids, ranges, upstream)
            prompts.append(cut(ids, ranges))
            kept.append(Kept(len(ids), len(prompts[-1]), ranges))
        echoed = ""
        if self._generation.payload.get("echo") and special and isinstance(measured.prompts[0], str):
            echoed = await counter.decode(affixes.prefix, upstream)
        changes = {"prompt": prompts if len(prompts) > 1 else prompts[0]}
        return Truncated(overflow, tuple(kept), "token", changes, echoed)

    async def _truncate_conversation(
        self, dialect: Conversation, tokens: int, upstream: Upstream, budget: int, overflow: Overflow
    ) -> Truncated | None:
        parts = dialect.parts(self._generation.payload)

        def inside(ranges: Sequence[Range]) -> dict[str, Any]:
            return {dialect.param: [part for start, end in ranges for part in parts[start:end]]}

        async def count(ranges: Sequence[Range]) -> int:
            cut_down = {**self._generation.payload, **inside(ranges)}
            return await self._model.counter.count_conversation(dialect, cut_down, upstream)

        found = await fewest_dropped(turns_of([dialect.entry(part) for part in parts]), overflow, budget, count)
        if found is None:
            return None
        ranges, left = found
        return Truncated(overflow, (Kept(tokens, left, ranges),), dialect.unit, inside(ranges))
