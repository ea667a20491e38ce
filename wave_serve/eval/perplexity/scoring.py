"""Log-probabilities of a prompt's own tokens, by either of the two ways that endpoints have."""

import math
from enum import StrEnum
from typing import Any

from wave_serve.eval.endpoint import Endpoint
from wave_serve.eval.errors import EndpointError, NoLogProbabilitiesError


class Scoring(StrEnum):
    """How an endpoint tells log-probabilities; of each token only its own is asked for, never alternatives."""

    PROMPT_LOGPROBS = "prompt_logprobs"
    """vLLM's `prompt_logprobs: 0`."""
    ECHO = "echo"
    """OpenAI's `echo: true` with `logprobs: 0`."""


FIELDS: dict[Scoring, dict[str, Any]] = {
    Scoring.PROMPT_LOGPROBS: {"prompt_logprobs": 0, "max_tokens": 1},
    Scoring.ECHO: {"echo": True, "logprobs": 0, "max_tokens": 1},
}


async def find_scoring(endpoint: Endpoint, ids: list[int]) -> tuple[Scoring, list[float]]:
    """The first way that works for the prompt `ids`, and the losses it gives.

    Raises:
        NoLogProbabilitiesError: neither works; the message repeats the endpoint's reasons.
        EndpointError: the endpoint fails otherwise.
    """
    reasons = []
    for scoring in Scoring:
        try:
            return scoring, await losses(endpoint, scoring, ids)
        except NoLogProbabilitiesError as error:
            reasons.append(str(error))
        except EndpointError as error:
            if error.status is None or error.status >= 500:
                raise
            reasons.append(str(error))
    prefix = f"endpoint {endpoint.name}: "
    told = "; ".join(reason.removeprefix(prefix) for reason in reasons)
    raise NoLogProbabilitiesError(endpoint.name, f"gives no log-probabilities of a prompt ({told})")


async def losses(endpoint: Endpoint, scoring: Scoring, ids: list[int]) -> list[float]:
    """-ln p(token | tokens before it), in nats, for every token of the prompt `ids` but the first.

    Raises:
        NoLogProbabilitiesError: the answer holds none.
        EndpointError: it holds too few, or one that is not a number.
    """
    choice = await endpoint.complete(ids, **FIELDS[scoring])
    read = _from_prompt_logprobs if scoring is Scoring.PROMPT_LOGPROBS else _from_echo
    values = read(endpoint, choice, ids)
    found = []
    for index, value in enumerate(values, start=1):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise EndpointError(
                endpoint.name, f"the log-probability of prompt token {index} is {value!r}, not a number"
            )
        found.append(-float(value))
    return found


def _from_prompt_logprobs(endpoint: Endpoint, choice: dict[str, Any], ids: list[int]) -> list[Any]:
    rows = choice.get("prompt_logprobs")
    if not isinstance(rows, list):
        raise NoLogProbabilitiesError(endpoint.name, "no prompt_logprobs in the answer")
    _check_count(endpoint, len(rows), len(ids))
    try:
        return [row[str(token)]["logprob"] for token, row in zip(ids[1:], rows[1:], strict=True)]
    except (KeyError, TypeError):
        raise EndpointError(endpoint.name, "its prompt_logprobs are not those of the prompt's tokens") from None


def _from_echo(endpoint: Endpoint, choice: dict[str, Any], ids: list[int]) -> list[Any]:
    logprobs = choice.get("logprobs")
    values = logprobs.get("token_logprobs") if isinstance(logprobs, dict) else None
    if not isinstance(values, list) or len(values) <= 1:
        raise NoLogProbabilitiesError(endpoint.name, "no logprobs of the echoed prompt in the answer")
    # One token more is generated, unless the endpoint stops before it.
    _check_count(endpoint, min(len(values), len(ids)), len(ids))
    return values[1 : len(ids)]


def _check_count(endpoint: Endpoint, found: int, asked: int) -> None:
    if found != asked:
        raise EndpointError(endpoint.name, f"gives log-probabilities of {found} tokens for a prompt of {asked}")
