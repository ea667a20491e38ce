"""Says beforehand whether a request fits: its tokens, the limits, and what truncation would keep."""

from collections.abc import Mapping
from typing import Any

from wave_serve.context.cap import Cap, Receipt, decide
from wave_serve.context.catalogue import ServedModel
from wave_serve.context.fitting import Measured, Truncated, measure, note_tokens, overflow_of, too_long, truncate
from wave_serve.errors import ApiError, invalid
from wave_serve.exchange import Exchange
from wave_serve.request.generation import Generation, read_generation
from wave_serve.settings import Overflow
from wave_serve.upstream.upstream import Upstream

TRUNCATIONS = tuple(one for one in Overflow if one is not Overflow.REJECT)


async def preflight(
    model: ServedModel, payload: Mapping[str, Any], upstream: Upstream, cap: Cap, exchange: Exchange
) -> dict[str, Any]:
    """The answer to a completion or chat body, which is neither generated from nor charged for.

    Raises:
        ApiError: the body is no request that could be answered at any length.
    """
    if "prompt" in payload and "messages" in payload:
        raise invalid("give either prompt (a completion) or messages (a chat), not both", "messages")
    generation = read_generation(payload, chat="messages" in payload)
    overflow = overflow_of(generation, cap)
    measured = await measure(model, generation, upstream, cap.longest_truncated)
    note_tokens(exchange, max(measured.tokens), cap)
    outcome = _decide(measured, generation, cap)
    cuts: dict[Overflow, Truncated | None] = {}
    if isinstance(outcome, ApiError) and not measured.hopeless:
        policies = TRUNCATIONS if overflow is Overflow.REJECT else (overflow,)
        cuts = {one: await truncate(model, generation, measured, upstream, cap, one) for one in policies}
    after = cuts.get(overflow)
    receipt = outcome if isinstance(outcome, Receipt) else None
    if after is not None:
        receipt = decide(after.tokens, generation.max_tokens, cap, generation.param)
    return {
        "object": "context",
        "model": model.name,
        "tokens": max(measured.tokens),
        "exact": measured.exact,
        "prompts": list(measured.tokens),
        "factor": cap.factor(max(measured.tokens)),
        "limit": cap.limit,
        "limits": model.bounds(exchange.key_limit),
        "fits": isinstance(outcome, Receipt) and outcome.clamped_from is None,
        "accepted": receipt is not None,
        "completion_tokens": None if receipt is None else receipt.completion_tokens,
        "overflow": overflow.value,
        "truncation": {policy.value: _told(cut) for policy, cut in cuts.items()},
        "error": outcome.body()["error"] if isinstance(outcome, ApiError) and receipt is None else None,
        **_zone(receipt, cap),
    }


def _decide(measured: Measured, generation: Generation, cap: Cap) -> Receipt | ApiError:
    if measured.hopeless:
        return too_long(measured, generation, cap)
    try:
        return decide(max(measured.tokens), generation.max_tokens, cap, generation.param)
    except ApiError as error:
        return error


def _told(cut: Truncated | None) -> dict[str, Any] | None:
    return None if cut is None else cut.as_json()


def _zone(receipt: Receipt | None, cap: Cap) -> dict[str, Any]:
    """Where the context would reach to, if it is accepted; lengths in tokens."""
    zones = cap.zones
    if zones is None:
        return {"train_length": None, "validated_length": None, "zone": None, "warning": None}
    told = {} if receipt is None else zones.headers(receipt.reach)
    return {
        "train_length": zones.train_length,
        "validated_length": zones.validated_length,
        "zone": told.get("x-wave-zone"),
        "warning": told.get("x-wave-warning"),
    }
