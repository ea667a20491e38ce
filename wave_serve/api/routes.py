"""The endpoints; each only names the parts that answer it."""

from fastapi import APIRouter, Depends, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.responses import JSONResponse, Response

from wave_serve.api.count_messages import count_messages
from wave_serve.api.entry import enter, gateway_of
from wave_serve.api.fit import naming
from wave_serve.api.generate import generate
from wave_serve.api.preflight import preflight
from wave_serve.api.readable import ReadableRoute
from wave_serve.api.readiness import Health, readiness
from wave_serve.api.stored import cancel, retrieve
from wave_serve.context.card import Models
from wave_serve.context.catalogue import unknown_model
from wave_serve.context.fitting import check_size
from wave_serve.errors import invalid
from wave_serve.exchange import exchange_of
from wave_serve.request.dialects import CHAT, COMPLETIONS, MESSAGES, RESPONSES
from wave_serve.request.fields import Body, DetokenizeRequest, TokenizeChat, TokenizeText, check_fields
from wave_serve.request.generation import check_messages
from wave_serve.request.values import shown
from wave_serve.tokens.upstream_tokens import UpstreamTokens


class TextConvertor(PathConvertor):
    """What is left of a path, line breaks too, at which Starlette's `path` ends: that would make another answer."""

    regex = "(?s:.*)"


register_url_convertor("text", TextConvertor())
router = APIRouter(dependencies=[Depends(enter)], route_class=ReadableRoute)


@router.post("/v1/completions")
async def completions(request: Request) -> Response:
    """OpenAI's completions."""
    with gateway_of(request).drain.covers():
        return await generate(gateway_of(request), request, COMPLETIONS)


@router.post("/v1/chat/completions")
async def chat_completions(request: Request) -> Response:
    """OpenAI's chat completions, where the checkpoint has a chat template."""
    with gateway_of(request).drain.covers():
        return await generate(gateway_of(request), request, CHAT)


@router.post("/v1/responses")
async def responses(request: Request) -> Response:
    """OpenAI's responses."""
    with gateway_of(request).drain.covers():
        return await generate(gateway_of(request), request, RESPONSES)


@router.get("/v1/responses/{response_id}")
async def kept_response(request: Request, response_id: str) -> Response:
    """A response that an upstream keeps. Raises ApiError 400 where it is asked for as a stream."""
    stream = request.query_params.get("stream", "false")
    if stream.lower() not in ("false", "0"):
        raise invalid(f"stream is not supported of a kept response, which comes whole, got {shown(stream)}", "stream")
    content = await retrieve(gateway_of(request), response_id, exchange_of(request))
    return Response(content, media_type="application/json")


@router.post("/v1/responses/{response_id}/cancel")
async def cancelled_response(request: Request, response_id: str) -> Response:
    """Ends the work on a response in the background."""
    content = await cancel(gateway_of(request), response_id, exchange_of(request))
    return Response(content, media_type="application/json")


@router.post("/v1/messages")
async def messages(request: Request) -> Response:
    """Anthropic's messages."""
    with gateway_of(request).drain.covers():
        return await generate(gateway_of(request), request, MESSAGES)


@router.post("/v1/messages/count_tokens")
async def count_tokens(request: Request) -> Response:
    """The tokens of Anthropic's messages; nothing is generated."""
    with gateway_of(request).drain.covers():
        return JSONResponse(await count_messages(gateway_of(request), request))


@router.get("/v1/models")
async def models(request: Request) -> Response:
    """The served models with their limits."""
    cards = gateway_of(request).cards(exchange_of(request))
    return JSONResponse(Models(object="list", data=cards))


@router.get("/v1/models/{model:text}")
async def one_model(request: Request, model: str) -> Response:
    """One served model, or an alias of some, with its limits."""
    gateway, exchange = gateway_of(request), exchange_of(request)
    if not gateway.members(model):
        exchange.check_model(gateway.catalogue.find(model).name)
    card = next((card for card in gateway.cards(exchange) if card["id"] == model), None)
    if card is None:  # the key may use none of the alias
        raise unknown_model(model, gateway.catalogue.names)
    return JSONResponse(card)


@router.post("/v1/context")
async def context(request: Request) -> Response:
    """Whether a request in any of the dialects would fit; nothing is generated."""
    with gateway_of(request).drain.covers():
        return JSONResponse(await preflight(gateway_of(request), request))


@router.post("/tokenize")
async def tokenize(request: Request) -> Response:
    """Token ids of a prompt, as vLLM's endpoint of that name."""
    with gateway_of(request).drain.covers():
        return await _ask(request, "/tokenize", prompt=TokenizeText, messages=TokenizeChat)


@router.post("/detokenize")
async def detokenize(request: Request) -> Response:
    """The text of token ids, as vLLM's endpoint of that name."""
    with gateway_of(request).drain.covers():
        return await _ask(request, "/detokenize", tokens=DetokenizeRequest)


async def _ask(request: Request, path: str, **kinds: type[Body]) -> Response:
    """The upstream's own answer; `kinds`: what the body must be where it has that field, and it must have one."""
    gateway, exchange = gateway_of(request), exchange_of(request)
    await exchange.may_count()
    body, payload = await gateway.read(request)
    model = gateway.model_of(payload, exchange)
    given = [field for field in kinds if payload.get(field) is not None]
    if not given:
        raise invalid(f"{' or '.join(kinds)} is required", next(iter(kinds)))
    for field in given:
        check_fields(payload, kinds[field])
    if "messages" in given:
        check_messages(payload)
    elif "prompt" in given:
        check_size(payload["prompt"], model, exchange.key_limit)
    body = await gateway.bodies.edit(body, payload, naming(model, payload))
    answer = await gateway.ask(request, model, lambda upstream: upstream.client.ask_object(path, body))
    await exchange.charge(len(payload["tokens"]) if "tokens" in given else len(UpstreamTokens(answer)))
    return Response(answer, media_type="application/json")


@router.get("/health")
async def health() -> Response:
    """Answers as long as this process does."""
    return JSONResponse(Health(status="ok"))


@router.get("/ready")
async def ready(request: Request) -> Response:
    """Whether at least one upstream answers its requests. Raises ApiError 503 with the reasons where none does."""
    return JSONResponse(readiness(gateway_of(request)))


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus metrics."""
    return Response(gateway_of(request).metrics.exposition(), media_type=CONTENT_TYPE_LATEST)
