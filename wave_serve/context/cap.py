"""The context cap: the effective limit of a model, the decision on a request, and its receipt."""

from dataclasses import dataclass

from wave_serve.context.zones import Zones
from wave_serve.errors import ContextExceededError
from wave_serve.headers import Header
from wave_serve.settings import ModelSettings, Overflow


@dataclass(frozen=True)
class Cap:
    """What one request of a model may use: `limit` tokens of prompt + completion, under the model's policy."""

    limit: int
    policy: ModelSettings
    zones: Zones | None

    @property
    def train_length(self) -> int | None:
        """Length the checkpoint was trained at, in tokens."""
        return self.policy.train_length

    @property
    def longest_truncated(self) -> int:
        """Tokens of the longest prompt that is truncated rather than refused."""
        return int(self.limit * self.policy.truncate_up_to)

    def factor(self, prompt_tokens: int) -> float | None:
        """How far a prompt extrapolates: prompt tokens / train_length."""
        return None if self.train_length is None else prompt_tokens / self.train_length

    def headers(self) -> dict[str, str]:
        """The limits as response headers."""
        found: dict[str, str] = {Header.CONTEXT_LIMIT: str(self.limit)}
        if self.train_length is not None:
            found[Header.TRAIN_LENGTH] = str(self.train_length)
        return found


@dataclass(frozen=True)
class Receipt:
    """The decision on one request: longest prompt, completion granted, and the cap they were held against."""

    cap: Cap
    prompt_tokens: int
    completion_tokens: int
    clamped_from: int | None = None

    @property
    def reach(self) -> int:
        """The longest context that the request may come to, in tokens."""
        return self.prompt_tokens + self.completion_tokens

    def headers(self) -> dict[str, str]:
        """The decision as response headers."""
        found = self.cap.headers() | usage_headers(self.prompt_tokens, self.cap)
        if self.cap.zones is not None:
            found |= self.cap.zones.headers(self.reach)
        if self.clamped_from is not None:
            found[Header.CLAMPED_MAX_TOKENS] = str(self.completion_tokens)
        return found


def bounds(
    settings: ModelSettings, zones: Zones | None, engine_limit: int | None, cache_tokens: int | None
) -> dict[str, int]:
    """Every known bound on prompt + completion, in tokens, by what sets it.

    Args:
        settings: the model's policy.
        zones: its zones of trust; a rejected zone is a bound.
        engine_limit: the engine's max_model_len.
        cache_tokens: what its KV cache holds.
    """
    extrapolated = None
    if settings.train_length is not None and settings.max_extrapolation is not None:
        extrapolated = int(settings.train_length * settings.max_extrapolation)
    known = {
        "max_tokens": settings.max_tokens,
        "max_extrapolation": extrapolated,
        "zones": None if zones is None else zones.limit(),
        "engine": engine_limit,
        "kv_cache": cache_tokens,
    }
    return {name: bound for name, bound in known.items() if bound is not None}


def usage_headers(prompt_tokens: int, cap: Cap) -> dict[str, str]:
    """Prompt length and how far it extrapolates, as response headers."""
    found: dict[str, str] = {Header.CONTEXT_TOKENS: str(prompt_tokens)}
    factor = cap.factor(prompt_tokens)
    if factor is not None:
        found[Header.EXTRAPOLATION_FACTOR] = f"{factor:.3f}"
    return found


def decide(prompt_tokens: int, requested: int | None, cap: Cap, param: str, least: int = 0) -> Receipt:
    """Admits a request or refuses it.

    Args:
        prompt_tokens: length of the longest prompt.
        requested: the request's max_tokens, None where absent.
        cap: what the request is held against.
        param: the field that holds the prompt, for the error.
        least: the request's min_tokens; a completion that the gateway shortens or chooses itself is not below it.

    Raises:
        ApiError: 400 context_length_exceeded; an engine generates at least one token, so that much room must be left.
    """
    room = cap.limit - prompt_tokens
    if room < 1:
        raise ContextExceededError(prompt_tokens, max(1, least) if requested is None else requested, cap.limit, param)
    if requested is not None and requested <= room:
        return Receipt(cap, prompt_tokens, requested)
    if least > room:
        raise ContextExceededError(prompt_tokens, least if requested is None else requested, cap.limit, param)
    if requested is None:
        return Receipt(cap, prompt_tokens, min(room, max(least, cap.policy.default_max_completion_tokens)))
    if cap.policy.clamp_max_tokens:
        return Receipt(cap, prompt_tokens, room, clamped_from=requested)
    raise ContextExceededError(prompt_tokens, requested, cap.limit, param)


def truncation_budget(
    prompt_tokens: int, requested: int | None, cap: Cap, overflow: Overflow, least: int = 0
) -> int | None:
    """Tokens that a prompt has to be cut to; None where it needs no cut or may not be cut.

    Room is left for the completion that was asked for, or for the default one but at most half the cap; in any case
    for `least` tokens, the request's min_tokens.
    """
    room = cap.limit - prompt_tokens
    chosen = least <= room and (requested is None or cap.policy.clamp_max_tokens)
    fits = room >= 1 and (chosen or (requested is not None and requested <= room))
    if fits or overflow is Overflow.REJECT or prompt_tokens > cap.longest_truncated:
        return None
    if requested is None or (requested >= cap.limit and cap.policy.clamp_max_tokens):
        return max(0, cap.limit - max(1, least, min(cap.policy.default_max_completion_tokens, cap.limit // 2)))
    return max(0, cap.limit - max(1, requested))
