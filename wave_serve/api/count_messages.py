"""Anthropic's count of tokens: of a conversation of any length, whether it fits or not."""

from fastapi import Request
from pydantic import ConfigDict, NonNegativeInt, with_config
from typing_extensions import TypedDict

from wave_serve.context.fitting import count_record
from wave_serve.exchange import exchange_of
from wave_serve.gateway import Gateway
from wave_serve.request.dialects import MESSAGES
from wave_serve.request.dialects.messages_body import CountedMessages
from wave_serve.request.fields import check_fields


@with_config(ConfigDict(use_attribute_docstrings=True))
class InputTokens(TypedDict):
    """Anthropic's count."""

    input_tokens: NonNegativeInt
    """Tokens of system, tools and messages, as the engine counts them."""


async def count_messages(gateway: Gateway, request: Request) -> InputTokens:
    """The answer to the body of a message, which is not generated from; its key pays for what is counted.

    Raises:
        ApiError: the body is no message.
    """
    exchange = exchange_of(request)
    await exchange.may_count()
    _, payload = await gateway.read(request)
    widest = gateway.find(payload, exchange)[-1]
    check_fields(payload, CountedMessages)
    MESSAGES.check(payload)
    count = widest.model.counter.count_conversation
    tokens = await gateway.ask(request, widest.model, lambda upstream: count(MESSAGES, payload, upstream))
    await exchange.charge(tokens)
    exchange.record(count_record(tokens, widest.cap))
    return {"input_tokens": tokens}
