"""JSON schemas of what the gateway itself answers; a test holds real answers against them, member for member."""

from typing import Any

from wave_serve.api.openapi.shapes import COUNT, FLAG, NUMBER, TEXT, Schema, array_of, closed_object, described, ref
from wave_serve.context.zones import Zone
from wave_serve.errors import error_type
from wave_serve.request.kinds import nullable
from wave_serve.settings import Overflow, ZoneAction

RANGE: Schema = {"type": "array", "prefixItems": [COUNT, COUNT], "minItems": 2, "maxItems": 2}


def answers() -> dict[str, Schema]:
    """All of them by name."""
    return {
        "Model": _model(),
        "Models": closed_object({"object": {"const": "list"}, "data": array_of(ref("Model"))}),
        "Limits": _limits(),
        "Zones": closed_object({zone.value: _choice(ZoneAction) for zone in Zone}),
        "Context": _context(),
        "Truncation": _truncation(),
        "Health": closed_object({"status": {"const": "ok"}}),
        "Ready": closed_object(
            {
                "status": {"const": "ready"},
                "upstreams": described(_texts(), "By base_url: ready, or why not."),
                "models": described(_texts(), "By name: ready, or that no upstream is."),
            }
        ),
        "Error": closed_object({"error": ref("ErrorDetails")}),
        "ErrorDetails": _error(),
    }


def _model() -> Schema:
    return closed_object(
        {
            "id": TEXT,
            "object": {"const": "model"},
            "created": described(COUNT, "When this gateway started, in seconds since 1970."),
            "owned_by": TEXT,
            "max_model_len": described(
                nullable(COUNT), "Effective cap on prompt + completion, tokens: the least limit."
            ),
            "limits": ref("Limits"),
            "train_length": described(nullable(COUNT), "Length that the model was trained at, tokens."),
            "validated_length": described(nullable(COUNT), "Length up to which it was shown to be good, tokens."),
            "max_extrapolation": described(nullable(NUMBER), "Configured cap as a multiple of train_length."),
            "zones": described(nullable(ref("Zones")), "What happens by how far a context reaches."),
            "overflow": described(
                _choice(Overflow), "What happens to a prompt over the cap, unless its request says it."
            ),
            "default_max_completion_tokens": described(COUNT, "Completion limit of requests that name none."),
        }
    )


def _limits() -> Schema:
    bounds = {
        "max_tokens": "Configured cap.",
        "max_extrapolation": "Configured multiple of train_length.",
        "zones": "Where a rejected zone begins.",
        "engine": "The engine's max_model_len.",
        "kv_cache": "What the engine's KV cache holds of one request.",
        "key": "The API key's own cap.",
    }
    limits = {name: described(COUNT, text) for name, text in bounds.items()}
    return described(
        closed_object(limits, optional=tuple(limits)), "Every known bound on prompt + completion, in tokens."
    )


def _context() -> Schema:
    truncations = tuple(one.value for one in Overflow if one is not Overflow.REJECT)
    kept = closed_object(dict.fromkeys(truncations, nullable(ref("Truncation"))), optional=truncations)
    return closed_object(
        {
            "object": {"const": "context"},
            "model": TEXT,
            "tokens": described(COUNT, "Tokens of the longest prompt."),
            "exact": described(FLAG, "false: tokens are a lower bound, the prompt is too long to be counted."),
            "prompts": described(array_of(COUNT), "Tokens of each prompt."),
            "factor": described(nullable(NUMBER), "tokens / train_length."),
            "limit": described(COUNT, "Effective cap on prompt + completion, tokens: the least of limits."),
            "limits": ref("Limits"),
            "fits": described(FLAG, "As it is, neither truncated nor clamped."),
            "accepted": described(FLAG, "Whether the request would be answered, maybe truncated or clamped."),
            "completion_tokens": described(nullable(COUNT), "Longest completion that it would get, tokens."),
            "overflow": described(_choice(Overflow), "The policy that applies to it."),
            "truncation": described(
                kept, "By policy, what truncation would keep; null where it would not fit even then."
            ),
            "error": described(nullable(ref("ErrorDetails")), "What the refusal would say."),
            "train_length": described(nullable(COUNT), "Length that the model was trained at, tokens."),
            "validated_length": described(nullable(COUNT), "Length up to which it was shown to be good, tokens."),
            "zone": described(nullable(_choice(Zone)), "Zone that prompt + completion reach into, where accepted."),
            "warning": described(nullable(TEXT), "Why that zone deserves care."),
        }
    )


def _truncation() -> Schema:
    prompt = closed_object(
        {
            "original_tokens": described(COUNT, "Tokens before the cut."),
            "kept_tokens": described(COUNT, "Tokens after it."),
            "kept_ranges": described(array_of(RANGE), "First index kept and first index after it that is not."),
        }
    )
    return closed_object(
        {
            "overflow": described(_choice(Overflow), "The policy of the cut."),
            "unit": {"enum": ["token", "message"], "description": "What the ranges count."},
            "prompts": array_of(prompt),
        }
    )


def _error() -> Schema:
    return closed_object(
        {
            "message": TEXT,
            "type": {"enum": sorted({error_type(status) for status in (400, 401, 403, 429, 500)})},
            "param": described(nullable(TEXT), "The field of the request at fault."),
            "code": described(nullable(TEXT), "Machine-readable reason; each status names its own."),
            "n_prompt_tokens": described(COUNT, "With context_length_exceeded: tokens of the longest prompt."),
            "n_ctx": described(COUNT, "With context_length_exceeded: the cap that was exceeded."),
        },
        optional=("n_prompt_tokens", "n_ctx"),
    )


def _choice(of: Any) -> Schema:
    return {"enum": [one.value for one in of]}


def _texts() -> Schema:
    return {"type": "object", "additionalProperties": TEXT}
