"""The context cap: the effective limit of a model, the decision on a request, and its receipt."""

from dataclasses import dataclass

from wave_serve.errors import ApiError
from wave_serve.settings import ModelSettings


@dataclass(frozen=True)
class Cap:
    """What one request of a model may use; lengths in tokens."""

    limit: int
    train_length: int | None
    default_completion: int
    clamp: bool

    def headers(self) -> dict[str, str]:
        """The limits as response headers."""
        found = {"x-wave-context-limit": str(self.limit)}
        if self.train_length is not None:
            found["x-wave-train-length"] = str(self.train_length)
        return found


@dataclass(frozen=True)
class Receipt:
    """The decision on one request: longest prompt, completion granted, and the cap they were held against."""

    cap: Cap
    prompt_tokens: int
    completion_tokens: int
    clamped_from: int | None = None

    def headers(self) -> dict[str, str]:
        """The decision as response headers."""
        found = self.cap.headers() | usage_headers(self.prompt_tokens, self.cap)
        if self.clamped_from is not None:
            found["x-wave-clamped-max-tokens"] = str(self.completion_tokens)
        return found


def effective_limit(settings: ModelSettings, engine_limit: int | None) -> int | None:
    """The least of the configured caps and the engine's max_model_len; None where none of them is known."""
    bounds = [settings.max_tokens, engine_limit]
    if settings.train_length is not None and settings.max_extrapolation is not None:
        bounds.append(int(settings.train_length * settings.max_extrapolation))
    return min((bound for bound in bounds if bound is not None), default=None)


def usage_headers(prompt_tokens: int, cap: Cap) -> dict[str, str]:
    """Prompt length and how far it extrapolates (prompt tokens / train_length), as response headers."""
    found = {"x-wave-context-tokens": str(prompt_tokens)}
    if cap.train_length is not None:
        found["x-wave-extrapolation-factor"] = f"{prompt_tokens / cap.train_length:.3f}"
    return found


def decide(prompt_tokens: int, requested: int | None, cap: Cap, param: str) -> Receipt:
    """Admits a request or refuses it.

    Args:
        prompt_tokens: length of the longest prompt.
        requested: the request's max_tokens, None where absent.
        cap: what the request is held against.
        param: the field that holds the prompt, for the error.

    Raises:
        ApiError: 400 context_length_exceeded; an engine generates at least one token, so that much room must be left.
    """
    room = cap.limit - prompt_tokens
    if room < 1:
        raise context_exceeded(prompt_tokens, 1 if requested is None else requested, cap, param)
    if requested is None:
        return Receipt(cap, prompt_tokens, min(room, cap.default_completion))
    if requested <= room:
        return Receipt(cap, prompt_tokens, requested)
    if cap.clamp:
        return Receipt(cap, prompt_tokens, room, clamped_from=requested)
    raise context_exceeded(prompt_tokens, requested, cap, param)


def context_exceeded(prompt_tokens: int, completion: int, cap: Cap, param: str, *, at_least: bool = False) -> ApiError:
    """OpenAI's error for a request over its cap; `at_least`: the prompt's length is a lower bound, not a count."""
    bound = "at least " if at_least else ""
    message = (
        f"This model's maximum context length is {cap.limit} tokens. However, you requested "
        f"{bound}{prompt_tokens + completion} tokens ({bound}{prompt_tokens} in the prompt, "
        f"{completion} for the completion). Please reduce the length of the {param} or completion."
    )
    extra = {"n_prompt_tokens": prompt_tokens, "n_ctx": cap.limit}
    return ApiError(400, message, param=param, code="context_length_exceeded", extra=extra)
