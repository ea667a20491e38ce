"""Responses that an upstream keeps: noted as they pass, gone on from, asked for again and cancelled.

Only an engine with VLLM_ENABLE_RESPONSES_API_STORE=1 keeps any; where none does, all that needs a store is refused.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic_core import from_json

from wave_serve.context.choice import Candidate, by_window
from wave_serve.errors import ApiError, Code, invalid, unavailable
from wave_serve.exchange import Exchange
from wave_serve.gateway import Gateway, those_for
from wave_serve.request.generation import Generation
from wave_serve.request.values import shown
from wave_serve.routing.kept_responses import KeptResponse
from wave_serve.settings import Overflow
from wave_serve.upstream.answer import FAILURES
from wave_serve.upstream.errors import from_upstream
from wave_serve.upstream.upstream import Upstream

NO_STORE = "the engine keeps no responses (VLLM_ENABLE_RESPONSES_API_STORE=1 makes vLLM keep them)"


async def resume(
    gateway: Gateway, candidates: list[Candidate], generation: Generation, exchange: Exchange
) -> tuple[list[Candidate], Generation]:
    """A generation with the tokens of the response that it goes on from, and the candidates that have what it needs.

    Each candidate is held against its widest upstream that has it, so that what fits no such upstream is refused.

    Raises:
        ApiError: 400, it asks for a store where there is none, or goes on from what is not complete, or with another
            model; 404, from what is not kept; 503, no model that has what it needs is ready.
    """
    if generation.kept is None:
        return candidates, generation
    previous = generation.payload.get("previous_response_id")
    if previous is not None:
        generation = await _gone_on_from(gateway, previous, generation, exchange)
    if not any(those_for(generation, model.upstreams) for model in gateway.models_of(generation.payload, exchange)):
        reason = NO_STORE if generation.holder is None else "another model's engine keeps that response"
        raise invalid(f"{generation.kept} is not supported: {reason}", generation.kept)
    found = [_within(one, able) for one in candidates if (able := those_for(generation, one.model.upstreams))]
    if not found:
        raise unavailable("No upstream that keeps responses is ready.", gateway.settings.timeouts.retry_after)
    for one in found:
        exchange.is_held_against(one.cap.headers())
    return by_window(found), generation


def _within(candidate: Candidate, upstreams: Sequence[Upstream]) -> Candidate:
    """The candidate, held against the widest of these of its upstreams."""
    limit = candidate.cap.limit
    widest = max(candidate.model.window(one) or limit for one in upstreams)
    return replace(candidate, cap=replace(candidate.cap, limit=min(limit, widest)))


async def _gone_on_from(gateway: Gateway, previous: str, generation: Generation, exchange: Exchange) -> Generation:
    """The generation with the tokens of the response before it.

    Their sum with its own is an upper bound: the template's beginning is counted twice.
    """
    found, upstream = _find(gateway, previous, exchange, "previous_response_id")
    tokens = found.tokens
    if tokens is None:  # when it passed; work in the background may be done by now
        tokens = await _tokens_now(gateway, previous, upstream)
    if tokens is None:
        raise invalid(f"the response {shown(previous)} is not complete yet", "previous_response_id")
    holder = upstream.base_url
    return replace(generation, earlier=tokens, holder=holder, overflow=Overflow.REJECT, truncates=False)


def note(gateway: Gateway, exchange: Exchange, part: Any) -> None:
    """Remembers the response in an answer, or in an event of its stream, if there is one and its upstream keeps it."""
    response = part.get("response", part) if isinstance(part, dict) else None
    if not isinstance(response, dict) or response.get("object") != "response":
        return
    upstream = _keeper(gateway, exchange.upstream)
    if upstream is not None and isinstance(response.get("id"), str):
        gateway.responses.note(response["id"], upstream.base_url, exchange.key_name, _tokens_of(response))


async def retrieve(gateway: Gateway, response_id: str, exchange: Exchange) -> bytes:
    """A kept response as its upstream has it. Raises ApiError 400, 404 or 503."""
    _, upstream = _find(gateway, response_id, exchange)
    return await _fetch(gateway, response_id, upstream)


async def _fetch(gateway: Gateway, response_id: str, upstream: Upstream) -> bytes:
    try:
        status, content = await upstream.client.get(f"/v1/responses/{response_id}")
    except FAILURES:
        message = "The upstream that keeps the response does not answer."
        raise unavailable(message, gateway.settings.timeouts.retry_after) from None
    if status >= 400:
        raise from_upstream(status, content)
    return content


async def cancel(gateway: Gateway, response_id: str, exchange: Exchange) -> bytes:
    """Ends a kept response's work in the background. Raises ApiError 400, 404 or that of the upstream."""
    _, upstream = _find(gateway, response_id, exchange)
    return await upstream.client.ask_object(f"/v1/responses/{response_id}/cancel", b"")


def _find(
    gateway: Gateway, response_id: str, exchange: Exchange, param: str | None = None
) -> tuple[KeptResponse, Upstream]:
    if not any(upstream.keeps_responses for upstream in gateway.upstreams):
        raise invalid(f"There is no response {shown(response_id)}: {NO_STORE}", param)
    found = gateway.responses.find(response_id, exchange.key_name)
    upstream = None if found is None else _keeper(gateway, found.base_url)
    if found is None or upstream is None:
        raise ApiError(404, f"There is no response {shown(response_id)}.", param=param)
    return found, upstream


async def _tokens_now(gateway: Gateway, response_id: str, upstream: Upstream) -> int | None:
    content = await _fetch(gateway, response_id, upstream)
    try:
        return _tokens_of(from_json(content))
    except ValueError:
        raise ApiError(502, "The upstream's answer is not JSON.", code=Code.UPSTREAM_MALFORMED) from None


def _tokens_of(response: Any) -> int | None:
    """Tokens of a response's prompt and answer; None while it is not complete."""
    usage = response.get("usage") if isinstance(response, dict) else None
    tokens = usage.get("total_tokens") if isinstance(usage, dict) else None
    return tokens if isinstance(tokens, int) else None


def _keeper(gateway: Gateway, base_url: str | None) -> Upstream | None:
    """The upstream of that URL, where there is one and it keeps responses."""
    return next((one for one in gateway.upstreams if one.keeps_responses and one.base_url == base_url), None)
