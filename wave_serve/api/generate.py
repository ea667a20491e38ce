"""A generation's way through the gateway: read, find the model, fit, spend, edit, relay."""

from fastapi import Request
from starlette.responses import Response

from wave_serve.context.fitting import Fitting
from wave_serve.exchange import exchange_of
from wave_serve.gateway import Gateway
from wave_serve.relay.relay import Relay
from wave_serve.request.generation import POLICY_FIELDS, read_generation


async def generate(gateway: Gateway, request: Request, path: str, *, chat: bool) -> Response:
    """Answers a completion or chat request. Raises ApiError."""
    exchange = exchange_of(request)
    body, payload = await gateway.read(request)
    model, cap = gateway.find(payload, exchange)
    generation = read_generation(payload, chat=chat)
    exchange.asks_for_stream(generation.stream)
    exchange.asks_for(payload)
    outcome = await gateway.ask(request, model, Fitting(model, generation, cap).fit)
    exchange.record(outcome.record())
    longest = outcome.accepted().completion_tokens * generation.n * len(outcome.tokens)
    exchange.spend(sum(outcome.tokens) + longest)
    body = await gateway.bodies.edit(body, payload, outcome.changes, without=POLICY_FIELDS)
    dispatch = gateway.dispatch(exchange, model, sum(outcome.tokens), payload | outcome.changes)
    return Relay(dispatch, path, body, exchange, gateway.metrics, timeouts=gateway.settings.timeouts)
