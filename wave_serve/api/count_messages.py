"""Anthropic's count of tokens: of a conversation of any length, whether it fits or not."""

from fastapi import Request
from pydantic import ConfigDict, NonNegativeInt, with_config
from typing_extensions import TypedDict

from wave_serve.context.fitting import count_record
from wave_serve.exchange import exchange_of
from wave_serve.gateway import Gateway
from wave_serve.request.dialects import MESSAGES


@with_config(ConfigDict(use_attribute_docstrings=True))
class InputTokens(TypedDict):
    """Anthropic's count."""

    input_tokens: NonNegativeInt
    """Tokens of system, tools and messages, as the engine counts them."""


async def count_messages(gateway: Gateway, request: Request) -> InputTokens:
    """The answer to the body of a message, which is neither generated from nor held against the cap.

    Raises:
        ApiError: the body is no message.
    """
    exchange = exchange_of(request)
    _, payload = await gateway.read(request)
    model, cap = gateway.find(payload, exchange)
    MESSAGES.read(payload)
    MESSAGES.check(payload)
    count = model.counter.count_conversation
    tokens = await gateway.ask(request, model, lambda upstream: count(MESSAGES, payload, upstream))
    exchange.record(count_record(tokens, cap))
    return {"input_tokens": tokens}
