"""Options of the service itself: who may ask, where spans go, and the engine that `serve` starts."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt

from wave_serve.settings.section import Frozen, root_url

ANY_ORIGIN = "*"
ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([^\s/@?#:*\[\]]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?")


class AuthSettings(Frozen):
    """API keys; without any the gateway is open."""

    keys_file: Path | None = Field(
        None, description="YAML file with the keys' hashes and limits; `wave-serve keys new` writes its entries."
    )
    protect_metrics: bool = Field(False, description="Ask for a key at /metrics too.")
    protect_docs: bool = Field(False, description="Ask for a key at /docs and /openapi.json too.")


def _origin(text: str) -> str:
    if text != ANY_ORIGIN and not ORIGIN.fullmatch(text):
        raise ValueError('must be "*" or an origin as browsers send it: scheme, host, port if any, and no slash behind')
    return text.lower()


class CorsSettings(Frozen):
    """Web pages of other origins that may ask, from a browser; without any, none may."""

    origins: tuple[Annotated[str, AfterValidator(_origin)], ...] = Field(
        (), description='Their origins, such as https://app.example:8443, or "*" for all.'
    )
    max_age: NonNegativeInt = Field(600, description="Seconds for which a browser need not ask again whether it may.")


class TracingSettings(Frozen):
    """OpenTelemetry spans; every other choice is OpenTelemetry's own environment (OTEL_TRACES_SAMPLER and so on)."""

    endpoint: Annotated[str, root_url("give them in OTEL_EXPORTER_OTLP_HEADERS")] | None = Field(
        None,
        description="OTLP/HTTP collector, without /v1/traces; where unset, OTEL_EXPORTER_OTLP_ENDPOINT decides.",
    )
    service_name: str = Field("wave-serve", description="Name of this service; OTEL_SERVICE_NAME overrides it.")
    flush: float = Field(3.0, gt=0, description="Seconds that the last spans may take to leave at the end.")


class EngineSettings(Frozen):
    """The vLLM server that `serve` starts and watches."""

    kv_cache_gib: PositiveInt = Field(2, description="KV cache of the CPU engine; VLLM_CPU_KVCACHE_SPACE overrides it.")
    restart_first: PositiveFloat = Field(1.0, description="Seconds before the first restart; doubles each time.")
    restart_most: PositiveFloat = Field(60.0, description="Longest wait before a restart, seconds.")
    healthy_after: PositiveFloat = Field(60.0, description="Seconds of readiness after which the wait starts anew.")
    show_log: bool = Field(False, description="Copy the engine's log to standard error.")
    args: tuple[str, ...] = Field((), description="Further arguments of `vllm serve`.")
