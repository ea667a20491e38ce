"""A generation's way through the gateway: read, find the model, fit, spend, edit, relay, compare."""

from functools import partial
from typing import Any

from fastapi import Request
from starlette.responses import Response

from wave_serve.api.fit import fit
from wave_serve.api.stored import note, resume
from wave_serve.context.catalogue import ServedModel
from wave_serve.context.fitting import Outcome
from wave_serve.exchange import exchange_of
from wave_serve.gateway import Gateway
from wave_serve.relay.handling import Handling
from wave_serve.relay.relay import Relay
from wave_serve.request.dialects import Dialect
from wave_serve.request.generation import Generation
from wave_serve.request.schema_places import CONSTRAINTS


async def generate(gateway: Gateway, request: Request, dialect: Dialect) -> Response:
    """Answers a request in one of the dialects. Raises ApiError."""
    exchange = exchange_of(request)
    body, payload = await gateway.read(request)
    candidates = gateway.find(payload, exchange)
    candidates, generation = await resume(gateway, candidates, dialect.read(payload), exchange)
    exchange.asks_for_stream(generation.stream)
    exchange.asks_for(payload)
    model, outcome = await fit(gateway, request, candidates, generation)
    exchange.record(outcome.record())
    longest = outcome.accepted().completion_tokens * generation.n * len(outcome.tokens)
    await exchange.spend(sum(outcome.tokens) + longest)
    usage = _ask_for_usage(generation, outcome)
    body = await gateway.bodies.edit(body, payload, outcome.changes | usage, without=dialect.policy_fields)
    dispatch = gateway.dispatch(exchange, model, generation, outcome, payload | outcome.changes)
    handling = Handling(
        on_usage=partial(_compare, gateway, model, outcome) if not generation.earlier else None,
        on_part=partial(note, gateway, exchange) if generation.stored else None,
        hide_usage=bool(usage),
        echoed_prefix="" if outcome.truncated is None else outcome.truncated.echoed_prefix,
        held_to_grammar=any(field in payload for field in CONSTRAINTS),
    )
    timeouts = gateway.settings.timeouts
    return Relay(dispatch, dialect, body, exchange, gateway.metrics, timeouts=timeouts, handling=handling)


def _ask_for_usage(generation: Generation, outcome: Outcome) -> dict[str, Any]:
    """The field that makes a stream tell its usage, where the local count could not be compared without it."""
    options = generation.payload.get("stream_options") or {}
    if not generation.stream or not outcome.local or options.get("include_usage"):
        return {}
    return {"stream_options": {"include_usage": True}}


def _compare(gateway: Gateway, model: ServedModel, outcome: Outcome, reported: int) -> None:
    """Holds the count of a request's prompts against what its answer says of them."""
    if not model.counter.compare(sum(outcome.tokens), reported, local=outcome.local):
        gateway.metrics.count_mismatches.labels(model.name).inc()
