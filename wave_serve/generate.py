"""A generation's way through the gateway: read, cap, pick an upstream, relay."""

from fastapi import Request
from starlette.responses import Response

from wave_serve.auth import spend_tokens
from wave_serve.body import parse_object, read_body, shown, with_field
from wave_serve.catalogue import ServedModel
from wave_serve.context import Cap, context_exceeded, decide, usage_headers
from wave_serve.dispatch import Dispatch
from wave_serve.errors import invalid
from wave_serve.exchange import Exchange, exchange_of
from wave_serve.gateway import Gateway
from wave_serve.prompts import (
    Generation,
    check_messages,
    check_sequences,
    check_token_ids,
    read_generation,
    read_prompts,
)
from wave_serve.relay import Relay
from wave_serve.upstream import Upstream


async def generate(gateway: Gateway, request: Request, path: str, *, chat: bool) -> Response:
    """Answers a completion or chat request. Raises ApiError."""
    exchange = exchange_of(request)
    body = await read_body(request, gateway.settings.max_body_bytes)
    exchange.read_s = exchange.elapsed()
    payload = parse_object(body, request.headers.get("content-type"))
    model = gateway.model_of(payload, exchange)
    if model.limit() is not None:
        exchange.headers |= model.cap().headers()
    upstream = model.pick()
    exchange.upstream = upstream.base_url
    cap = model.cap()
    exchange.headers |= cap.headers()

    generation = read_generation(payload, chat=chat)
    exchange.stream = generation.stream
    if chat:
        counts = [await _chat_tokens(model, generation, upstream)]
    else:
        counts = await _prompt_tokens(model, generation, upstream, cap, exchange)
    tokens = max(counts)
    _note_tokens(exchange, tokens, cap)
    receipt = decide(tokens, generation.max_tokens, cap, "messages" if chat else "prompt")
    exchange.headers |= receipt.headers()
    exchange.completion_limit = receipt.completion_tokens
    spend_tokens(exchange, sum(counts) + receipt.completion_tokens * generation.n * len(counts))
    if receipt.completion_tokens != generation.max_tokens:
        body = with_field(body, payload, generation.max_tokens_field, receipt.completion_tokens)
    routing = gateway.settings.routing
    return Relay(
        Dispatch(exchange, model.upstreams, tries=routing.tries, deadline=routing.retry_deadline),
        path,
        body,
        exchange,
        gateway.metrics,
        keep_alive=gateway.settings.timeouts.keep_alive,
    )


async def _prompt_tokens(
    model: ServedModel, generation: Generation, upstream: Upstream, cap: Cap, exchange: Exchange
) -> list[int]:
    """Length of each prompt; one that can never fit is refused before it is tokenised or looked through."""
    prompts = read_prompts(generation.payload)
    check_sequences(generation, len(prompts), model.settings.max_sequences)
    completion = 1 if generation.max_tokens is None else generation.max_tokens
    for prompt in prompts:
        if isinstance(prompt, str):
            fewest = 0 if model.tokenizer is None else model.tokenizer.fewest_tokens(prompt)
        else:
            fewest = len(prompt)
        if fewest >= cap.limit:
            _note_tokens(exchange, fewest, cap)
            raise context_exceeded(fewest, completion, cap, "prompt", at_least=isinstance(prompt, str))
    for prompt in prompts:
        if isinstance(prompt, list):
            check_token_ids(prompt, model.settings.vocab_size)
    special = generation.payload.get("add_special_tokens", True)
    if not isinstance(special, bool):
        raise invalid(f"add_special_tokens must be true or false, got {shown(special)}", "add_special_tokens")
    return await model.count(prompts, upstream, add_special_tokens=special)


async def _chat_tokens(model: ServedModel, generation: Generation, upstream: Upstream) -> int:
    check_messages(generation.payload)
    check_sequences(generation, 1, model.settings.max_sequences)
    return await model.count_chat(generation.payload, upstream)


def _note_tokens(exchange: Exchange, tokens: int, cap: Cap) -> None:
    exchange.prompt_tokens = tokens
    exchange.extrapolation = None if cap.train_length is None else tokens / cap.train_length
    exchange.headers |= usage_headers(tokens, cap)
