"""A generation's way through the gateway: read, cap, pick an upstream, relay."""

from fastapi import Request
from starlette.responses import Response

from wave_serve.context.fitting import fit
from wave_serve.exchange import exchange_of
from wave_serve.gateway import Gateway
from wave_serve.relay.relay import Relay
from wave_serve.request.body import read_body
from wave_serve.request.generation import POLICY_FIELDS, read_generation
from wave_serve.request.presence import while_connected


async def generate(gateway: Gateway, request: Request, path: str, *, chat: bool) -> Response:
    """Answers a completion or chat request. Raises ApiError."""
    exchange = exchange_of(request)
    body = await read_body(request, gateway.settings.max_body_bytes, gateway.settings.timeouts.body)
    exchange.read_s = exchange.elapsed()
    payload = await gateway.bodies.parse(body, request.headers.get("content-type"))
    model = gateway.model_of(payload, exchange)
    if model.limit(exchange.key_limit) is not None:
        exchange.headers |= model.cap(exchange.key_limit).headers()
    exchange.upstream = model.least_busy().base_url
    cap = model.cap(exchange.key_limit)
    exchange.headers |= cap.headers()

    generation = read_generation(payload, chat=chat)
    exchange.stream = generation.stream
    fitting = model.ask(
        lambda upstream: fit(model, generation, upstream, cap, exchange), gateway.settings.routing.tries
    )
    fitted = await while_connected(request.receive, fitting)
    completions = fitted.receipt.completion_tokens * generation.n * len(fitted.tokens)
    exchange.spend(sum(fitted.tokens) + completions)
    body = await gateway.bodies.edit(body, payload, fitted.changes, without=POLICY_FIELDS)
    return Relay(
        gateway.dispatch(exchange, model, sum(fitted.tokens), payload | fitted.changes),
        path,
        body,
        exchange,
        gateway.metrics,
        timeouts=gateway.settings.timeouts,
    )
