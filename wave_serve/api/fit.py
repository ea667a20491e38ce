"""Decides which of several models a request goes to, and what it gets there."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastapi import Request

from wave_serve.context.catalogue import ServedModel
from wave_serve.context.choice import Candidate, fits_whole
from wave_serve.context.fitting import Fitting, Outcome
from wave_serve.exchange import exchange_of
from wave_serve.gateway import Gateway
from wave_serve.request.generation import Generation
from wave_serve.settings import Overflow


async def choose(
    gateway: Gateway, request: Request, candidates: Sequence[Candidate], generation: Generation
) -> tuple[Candidate, Outcome | None]:
    """The first candidate that takes the request whole, with the decision there; else the last, the widest.

    Raises:
        ApiError: the request could be answered at no length, or no upstream counts its prompts.
    """
    *narrower, widest = candidates
    strictly = replace(generation, overflow=Overflow.REJECT, truncates=False)
    for one in narrower:
        outcome = await gateway.ask(request, one.model, Fitting(one.model, strictly, one.cap).fit)
        if fits_whole(generation, outcome):
            return one, outcome
    return widest, None


async def fit(
    gateway: Gateway, request: Request, candidates: Sequence[Candidate], generation: Generation
) -> tuple[ServedModel, Outcome]:
    """The model that a request goes to, and the decision there. Raises ApiError as `choose`."""
    chosen, outcome = await choose(gateway, request, candidates, generation)
    model = chosen.model
    if outcome is None:
        outcome = await gateway.ask(request, model, Fitting(model, generation, chosen.cap).fit)
    exchange_of(request).is_for(model.name)
    return model, replace(outcome, changes=outcome.changes | naming(model, generation.payload))


def naming(model: ServedModel, payload: Mapping[str, Any]) -> dict[str, str]:
    """The field that names the model, where the body names an alias or none.

    A vLLM that serves adapters too would answer a body without a name by the model that they adapt.
    """
    return {} if payload.get("model") == model.name else {"model": model.name}
