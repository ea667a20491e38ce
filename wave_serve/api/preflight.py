"""Says beforehand whether a request fits: its tokens, the limits, and what truncation would keep."""

from typing import Literal, cast

from fastapi import Request
from pydantic import ConfigDict, NonNegativeInt, with_config
from typing_extensions import TypedDict

from wave_serve.api.fit import choose
from wave_serve.api.stored import resume
from wave_serve.context.cap import Cap
from wave_serve.context.card import Limits
from wave_serve.context.fitting import Fitting, Measured, Truncated, count_record
from wave_serve.context.truncation import Truncation
from wave_serve.context.zones import Zone
from wave_serve.errors import ErrorDetails
from wave_serve.exchange import exchange_of
from wave_serve.gateway import Gateway
from wave_serve.request.dialects import dialect_of
from wave_serve.settings import Overflow
from wave_serve.upstream.upstream import Upstream

TRUNCATIONS = tuple(one for one in Overflow if one is not Overflow.REJECT)


class Truncations(TypedDict, total=False):
    """What truncation would keep, by policy; null where the request would not fit even then."""

    truncate_head: Truncation | None
    truncate_middle: Truncation | None
    truncate_tail: Truncation | None


@with_config(ConfigDict(use_attribute_docstrings=True))
class Context(TypedDict):
    """Whether a request fits, and what would become of it."""

    object: Literal["context"]
    model: str
    tokens: NonNegativeInt
    """Tokens of the longest prompt."""
    exact: bool
    """false: tokens are a lower bound, the prompt is too long to be counted."""
    prompts: list[NonNegativeInt]
    """Tokens of each prompt."""
    factor: float | None
    """tokens / train_length."""
    limit: NonNegativeInt
    """Effective cap on prompt + completion, tokens: the least of limits."""
    limits: Limits
    fits: bool
    """As it is, neither truncated nor clamped."""
    accepted: bool
    """Whether the request would be answered, maybe truncated or clamped."""
    completion_tokens: NonNegativeInt | None
    """Longest completion that it would get, tokens."""
    overflow: Overflow
    """The policy that applies to it."""
    truncation: Truncations
    """By policy, what truncation would keep; null where it would not fit even then."""
    error: ErrorDetails | None
    """What the refusal would say."""
    train_length: NonNegativeInt | None
    """Length that the model was trained at, tokens."""
    validated_length: NonNegativeInt | None
    """Length up to which it was shown to be good, tokens."""
    zone: Zone | None
    """Zone that prompt + completion reach into, where accepted."""
    warning: str | None
    """Why that zone deserves care."""


async def preflight(gateway: Gateway, request: Request) -> Context:
    """The answer to a body in any of the dialects, which is not generated from; its key pays for what is counted.

    Raises:
        ApiError: the body is no request that could be answered at any length.
    """
    exchange = exchange_of(request)
    await exchange.may_count()
    _, payload = await gateway.read(request)
    candidates = gateway.find(payload, exchange)
    generation = dialect_of(payload, request.headers).read(payload)
    candidates, generation = await resume(gateway, candidates, generation, exchange)
    chosen, _ = await choose(gateway, request, candidates, generation)
    model, cap = chosen.model, chosen.cap
    fitting = Fitting(model, generation, cap)
    measured, cuts = await gateway.ask(request, model, lambda upstream: _measure(fitting, upstream, cap))
    await exchange.charge(0 if measured.over_by_size else sum(measured.tokens))
    as_it_is = fitting.decide(measured.tokens, measured)
    exchange.record(count_record(max(measured.tokens), cap))
    cut = cuts.get(fitting.overflow)
    outcome = as_it_is if cut is None else fitting.decide(cut.tokens, measured)
    fits = as_it_is.receipt is not None and as_it_is.receipt.clamped_from is None
    receipt, refusal, zones = outcome.receipt, as_it_is.refusal, cap.zones
    return {
        "object": "context",
        "model": model.name,
        "tokens": max(measured.tokens),
        "exact": measured.exact,
        "prompts": list(measured.tokens),
        "factor": cap.factor(max(measured.tokens)),
        "limit": cap.limit,
        "limits": cast("Limits", model.bounds(exchange.key_limit)),
        "fits": fits,
        "accepted": receipt is not None,
        "completion_tokens": None if receipt is None else receipt.completion_tokens,
        "overflow": fitting.overflow,
        "truncation": cast("Truncations", {policy: one and one.as_json() for policy, one in cuts.items()}),
        "error": refusal.body()["error"] if refusal is not None and receipt is None else None,
        "train_length": None if zones is None else zones.train_length,
        "validated_length": None if zones is None else zones.validated_length,
        "zone": None if zones is None or receipt is None else zones.of(receipt.reach),
        "warning": None if zones is None or receipt is None else zones.warning(receipt.reach),
    }


async def _measure(fitting: Fitting, upstream: Upstream, cap: Cap) -> tuple[Measured, dict[Overflow, Truncated | None]]:
    """The prompts' tokens and, where they do not fit, what each policy that may apply would keep of them."""
    measured = await fitting.measure(upstream, cap.longest_truncated)
    if measured.over_by_size or fitting.decide(measured.tokens, measured).receipt is not None:
        return measured, {}
    policies = TRUNCATIONS if fitting.overflow is Overflow.REJECT else (fitting.overflow,)
    return measured, {policy: await fitting.truncate(measured, upstream, policy) for policy in policies}
