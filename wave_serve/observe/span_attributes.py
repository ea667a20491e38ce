"""What spans say of a request: HTTP's attributes, `wave.*`, and OpenTelemetry's conventions for generative AI.

Those conventions are not stable yet. Spans carry the names that they had in version 1.36, unless whoever runs the
gateway asks for the current ones with OTEL_SEMCONV_STABILITY_OPT_IN=gen_ai_latest_experimental.
"""

from collections.abc import Mapping
from typing import TypeAlias
from urllib.parse import urlsplit

from wave_serve.exchange import Exchange
from wave_serve.headers import Header

Value: TypeAlias = str | bool | int | float | tuple[str, ...]

OPT_IN = "OTEL_SEMCONV_STABILITY_OPT_IN"
LATEST = "gen_ai_latest_experimental"
PROVIDER = "vllm"

CONTEXT = {
    "wave.context.tokens": Header.CONTEXT_TOKENS,
    "wave.context.limit": Header.CONTEXT_LIMIT,
    "wave.context.train_length": Header.TRAIN_LENGTH,
    "wave.context.extrapolation_factor": Header.EXTRAPOLATION_FACTOR,
    "wave.context.zone": Header.ZONE,
    "wave.context.truncated": Header.TRUNCATED,
    "wave.context.original_tokens": Header.ORIGINAL_TOKENS,
    "wave.context.clamped_max_tokens": Header.CLAMPED_MAX_TOKENS,
}
NUMBERS = {"integer": int, "number": float}

# Fields of a request's body, all numbers: never anything of its text, such as stop sequences.
SAMPLING = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "seed": "gen_ai.request.seed",
}


def wants_latest(environment: Mapping[str, str]) -> bool:
    """Whether the current conventions are asked for."""
    return LATEST in (wish.strip() for wish in environment.get(OPT_IN, "").split(","))


def of_request(exchange: Exchange, method: str, endpoint: str, status: int) -> dict[str, Value]:
    """What the server's span of any request says."""
    return _known(
        {
            "http.request.method": method,
            "http.route": endpoint,
            "http.response.status_code": status,
            "error.type": exchange.error,
            "wave.request_id": exchange.request_id,
            "wave.overhead_s": exchange.overhead(),
            "wave.aborted": exchange.aborted or None,
            **{name: _read(exchange, header) for name, header in CONTEXT.items()},
        }
    )


def of_request_by_1_36(exchange: Exchange) -> dict[str, Value]:
    """What the server's span says of the generation, by the earlier conventions."""
    return _known(
        {
            "gen_ai.request.model": exchange.model,
            "gen_ai.request.stream": exchange.stream or None,
            "gen_ai.usage.input_tokens": exchange.prompt.tokens,
            "gen_ai.request.max_tokens": exchange.prompt.completion_limit,
        }
    )


def of_inference(exchange: Exchange, endpoint: str) -> dict[str, Value]:
    """What the client's span of a generation says, by the current conventions."""
    url = urlsplit(exchange.upstream or "")
    answer = exchange.answer
    first_chunk = None
    if exchange.first_token_s is not None and exchange.sent_s is not None:
        first_chunk = exchange.first_token_s - exchange.sent_s
    choices = exchange.asked.get("n")
    return _known(
        {
            "gen_ai.operation.name": operation(endpoint),
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": exchange.model,
            "gen_ai.request.stream": exchange.stream or None,
            "gen_ai.request.max_tokens": exchange.prompt.completion_limit,
            "gen_ai.request.choice.count": None if choices == 1 else choices,
            **{name: exchange.asked.get(field) for field, name in SAMPLING.items()},
            "gen_ai.response.finish_reasons": answer.finish_reasons or None,
            "gen_ai.response.time_to_first_chunk": first_chunk,
            "gen_ai.usage.input_tokens": answer.input_tokens or exchange.prompt.tokens,
            "gen_ai.usage.output_tokens": answer.output_tokens,
            "gen_ai.usage.cache_read.input_tokens": answer.cached_tokens,
            "server.address": url.hostname,
            "server.port": url.port,
            "error.type": exchange.error,
        }
    )


def operation(endpoint: str) -> str:
    """The conventions' name of what an endpoint does."""
    return "text_completion" if endpoint == "/v1/completions" else "chat"


def _read(exchange: Exchange, header: Header) -> Value | None:
    value = exchange.headers.get(header)
    return None if value is None else NUMBERS.get(header.kind, str)(value)


def _known(found: Mapping[str, Value | None]) -> dict[str, Value]:
    return {name: value for name, value in found.items() if value is not None}
