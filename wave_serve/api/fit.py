"""Decides which of several models a request goes to, and what it gets there."""

from collections.abc import Sequence
from dataclasses import replace

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
    return model, _named(model, generation, outcome)


def _named(model: ServedModel, generation: Generation, outcome: Outcome) -> Outcome:
    """With the model's own name in the body where an alias stands there, or none in a dialect that needs one."""
    named = generation.payload.get("model")
    if named == model.name or (named is None and not generation.dialect.needs_model):
        return outcome
    return replace(outcome, changes=outcome.changes | {"model": model.name})
