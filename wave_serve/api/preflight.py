"""Says beforehand whether a request fits: its tokens, the limits, and what truncation would keep."""

from typing import Any

from fastapi import Request

from wave_serve.context.cap import Cap, Receipt
from wave_serve.context.fitting import Fitting, Measured, Truncated, count_record
from wave_serve.errors import invalid
from wave_serve.exchange import exchange_of
from wave_serve.gateway import Gateway
from wave_serve.request.generation import read_generation
from wave_serve.settings import Overflow
from wave_serve.upstream.upstream import Upstream

TRUNCATIONS = tuple(one for one in Overflow if one is not Overflow.REJECT)


async def preflight(gateway: Gateway, request: Request) -> dict[str, Any]:
    """The answer to a completion or chat body, which is not generated from; its key pays for what is counted.

    Raises:
        ApiError: the body is no request that could be answered at any length.
    """
    exchange = exchange_of(request)
    exchange.may_count()
    _, payload = await gateway.read(request)
    model, cap = gateway.find(payload, exchange)
    if "prompt" in payload and "messages" in payload:
        raise invalid("give either prompt (a completion) or messages (a chat), not both", "messages")
    fitting = Fitting(model, read_generation(payload, chat="messages" in payload), cap)
    measured, cuts = await gateway.ask(request, model, lambda upstream: _measure(fitting, upstream, cap))
    exchange.charge(0 if measured.over_by_size else sum(measured.tokens))
    as_it_is = fitting.decide(measured.tokens, measured)
    exchange.record(count_record(max(measured.tokens), cap))
    cut = cuts.get(fitting.overflow)
    outcome = as_it_is if cut is None else fitting.decide(cut.tokens, measured)
    fits = as_it_is.receipt is not None and as_it_is.receipt.clamped_from is None
    receipt, refusal = outcome.receipt, as_it_is.refusal
    return {
        "object": "context",
        "model": model.name,
        "tokens": max(measured.tokens),
        "exact": measured.exact,
        "prompts": list(measured.tokens),
        "factor": cap.factor(max(measured.tokens)),
        "limit": cap.limit,
        "limits": model.bounds(exchange.key_limit),
        "fits": fits,
        "accepted": receipt is not None,
        "completion_tokens": None if receipt is None else receipt.completion_tokens,
        "overflow": fitting.overflow.value,
        "truncation": {policy.value: None if one is None else one.as_json() for policy, one in cuts.items()},
        "error": refusal.body()["error"] if refusal is not None and receipt is None else None,
        **_zone(receipt, cap),
    }


async def _measure(fitting: Fitting, upstream: Upstream, cap: Cap) -> tuple[Measured, dict[Overflow, Truncated | None]]:
    """The prompts' tokens and, where they do not fit, what each policy that may apply would keep of them."""
    measured = await fitting.measure(upstream, cap.longest_truncated)
    if measured.over_by_size or fitting.decide(measured.tokens, measured).receipt is not None:
        return measured, {}
    policies = TRUNCATIONS if fitting.overflow is Overflow.REJECT else (fitting.overflow,)
    return measured, {policy: await fitting.truncate(measured, upstream, policy) for policy in policies}


def _zone(receipt: Receipt | None, cap: Cap) -> dict[str, Any]:
    """Where the context would reach to, if it is accepted; lengths in tokens."""
    zones = cap.zones
    if zones is None:
        return {"train_length": None, "validated_length": None, "zone": None, "warning": None}
    return {
        "train_length": zones.train_length,
        "validated_length": zones.validated_length,
        "zone": None if receipt is None else zones.of(receipt.reach).value,
        "warning": None if receipt is None else zones.warning(receipt.reach),
    }
