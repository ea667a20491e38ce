"""Fits a request into its cap: measures it, truncates it where that was asked for, and decides."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from wave_serve.context.cap import Cap, Receipt, context_exceeded, decide, truncation_budget, usage_headers
from wave_serve.context.catalogue import ServedModel
from wave_serve.context.truncation import Kept, Range, cut, fewest_dropped, keep_tokens, turns_of
from wave_serve.errors import ApiError
from wave_serve.exchange import Exchange
from wave_serve.request.generation import (
    Generation,
    Prompt,
    check_messages,
    check_sequences,
    check_token_ids,
    read_prompts,
)
from wave_serve.settings import Overflow
from wave_serve.upstream.upstream import Upstream

LONGEST_HEADER = 2048  # characters; proxies refuse headers of some 8 KiB


@dataclass(frozen=True)
class Measured:
    """A request's prompts in tokens, one number each; of a completion also the prompts.

    `hopeless`: their size alone shows that they cannot fit, so they were not tokenised. Where `exact` is not set their
    numbers are lower bounds.
    """

    tokens: tuple[int, ...]
    prompts: tuple[Prompt, ...] = ()
    add_special_tokens: bool = True
    hopeless: bool = False
    exact: bool = True


@dataclass(frozen=True)
class Truncated:
    """What is left of a request's prompts, and the fields of its body that say so."""

    overflow: Overflow
    kept: tuple[Kept, ...]
    unit: str
    changes: dict[str, Any]

    @property
    def tokens(self) -> int:
        """Length of the longest prompt as it is sent."""
        return max(one.kept_tokens for one in self.kept)

    def as_json(self) -> dict[str, Any]:
        """As it is told in an answer's usage."""
        prompts = [one.as_json() for one in self.kept]
        return {"overflow": self.overflow.value, "unit": self.unit, "prompts": prompts}

    def headers(self) -> dict[str, str]:
        """As it is told in response headers."""
        ranges = ";".join(one.as_header() for one in self.kept)
        return {
            "x-wave-truncated": self.overflow.value,
            "x-wave-original-tokens": str(max(one.original_tokens for one in self.kept)),
            f"x-wave-kept-{self.unit}s": ranges if len(ranges) <= LONGEST_HEADER else "see usage",
        }


@dataclass(frozen=True)
class Fitted:
    """A request that fits: its receipt, tokens of each prompt as it is sent, and the fields of its body to set."""

    receipt: Receipt
    tokens: tuple[int, ...]
    truncated: Truncated | None
    changes: dict[str, Any] = field(default_factory=dict)


async def fit(model: ServedModel, generation: Generation, upstream: Upstream, cap: Cap, exchange: Exchange) -> Fitted:
    """The decision on a request, noted in its exchange. Raises ApiError."""
    overflow = overflow_of(generation, cap)
    most = cap.limit - 1 if overflow is Overflow.REJECT else cap.longest_truncated
    measured = await measure(model, generation, upstream, most)
    longest = max(measured.tokens)
    note_tokens(exchange, longest, cap)
    if measured.hopeless:
        raise too_long(measured, generation, cap)
    truncated = await truncate(model, generation, measured, upstream, cap, overflow)
    tokens = measured.tokens if truncated is None else tuple(one.kept_tokens for one in truncated.kept)
    receipt = decide(max(tokens), generation.max_tokens, cap, generation.param)
    changes = dict(truncated.changes) if truncated else {}
    if receipt.completion_tokens != generation.max_tokens:
        changes[generation.max_tokens_field] = receipt.completion_tokens
    note_tokens(exchange, max(tokens), cap)
    exchange.headers |= receipt.headers()
    exchange.completion_limit = receipt.completion_tokens
    if truncated is not None:
        exchange.truncated_from = longest
        exchange.headers |= truncated.headers()
        exchange.usage_extension = {"truncation": truncated.as_json()}
    return Fitted(receipt, tokens, truncated, changes)


def too_long(measured: Measured, generation: Generation, cap: Cap) -> ApiError:
    """The refusal of a request that was not even tokenised."""
    completion = 1 if generation.max_tokens is None else generation.max_tokens
    longest = max(measured.tokens)
    return context_exceeded(longest, completion, cap, generation.param, at_least=not measured.exact)


def overflow_of(generation: Generation, cap: Cap) -> Overflow:
    """What happens to a prompt that is too long: as the request says, else the model's policy."""
    return cap.policy.overflow if generation.overflow is None else generation.overflow


async def measure(model: ServedModel, generation: Generation, upstream: Upstream, most: int) -> Measured:
    """Tokens of each prompt; one whose size shows more than `most` is neither tokenised nor looked through.

    Raises:
        ApiError: 400, the prompts are none.
    """
    if generation.chat:
        check_messages(generation.payload)
        check_sequences(generation, 1, model.settings.max_sequences)
        fewest = model.counter.fewest_of_chat(generation.payload["messages"])
        if fewest > most:
            return Measured((fewest,), hopeless=True, exact=False)
        return Measured((await model.counter.count_chat(generation.payload, upstream),))
    prompts = read_prompts(generation.payload)
    check_sequences(generation, len(prompts), model.settings.max_sequences)
    bounds = tuple(model.counter.fewest(prompt) for prompt in prompts)
    if max(bounds) > most:
        longest = prompts[bounds.index(max(bounds))]
        return Measured(bounds, hopeless=True, exact=not isinstance(longest, str))
    for prompt in prompts:
        if not isinstance(prompt, str):
            check_token_ids(prompt, model.settings.vocab_size)
            await asyncio.sleep(0)  # many long prompts must not hold up others
    special = generation.payload.get("add_special_tokens") is not False
    tokens = await model.counter.count(prompts, upstream, add_special_tokens=special)
    return Measured(tuple(tokens), tuple(prompts), special)


async def truncate(
    model: ServedModel, generation: Generation, measured: Measured, upstream: Upstream, cap: Cap, overflow: Overflow
) -> Truncated | None:
    """Cuts the prompts to the cap; None where they need no cut, may not be cut, or would not fit even then."""
    budget = truncation_budget(max(measured.tokens), generation.max_tokens, cap, overflow)
    if budget is None:
        return None
    if generation.chat:
        return await _truncate_chat(model, generation, measured.tokens[0], upstream, budget, overflow)
    affixes = await model.counter.affixes(upstream)
    prompts, kept = [], []
    special = measured.add_special_tokens
    for ids in await model.counter.encode(measured.prompts, upstream, add_special_tokens=special):
        ranges = keep_tokens(len(ids), budget, overflow, *affixes.around(ids))
        if ranges is None:
            return None
        prompts.append(cut(ids, ranges))
        kept.append(Kept(len(ids), len(prompts[-1]), ranges))
    return Truncated(overflow, tuple(kept), "token", {"prompt": prompts if len(prompts) > 1 else prompts[0]})


def note_tokens(exchange: Exchange, tokens: int, cap: Cap) -> None:
    """Notes the longest prompt for the response headers, the log and the metrics."""
    exchange.prompt_tokens = tokens
    exchange.extrapolation = cap.factor(tokens)
    exchange.headers |= usage_headers(tokens, cap)


async def _truncate_chat(
    model: ServedModel, generation: Generation, tokens: int, upstream: Upstream, budget: int, overflow: Overflow
) -> Truncated | None:
    messages = generation.payload["messages"]

    def inside(ranges: Sequence[Range]) -> list[Any]:
        return [message for start, end in ranges for message in messages[start:end]]

    async def count(ranges: Sequence[Range]) -> int:
        return await model.counter.count_chat({**generation.payload, "messages": inside(ranges)}, upstream)

    found = await fewest_dropped(turns_of(messages), overflow, budget, count)
    if found is None:
        return None
    ranges, left = found
    return Truncated(overflow, (Kept(tokens, left, ranges),), "message", {"messages": inside(ranges)})
