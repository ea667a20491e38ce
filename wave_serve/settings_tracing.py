"""Where spans go."""

from typing import Annotated

from pydantic import AfterValidator, Field, HttpUrl

from wave_serve.settings_section import Frozen

Collector = Annotated[str, AfterValidator(lambda url: str(HttpUrl(url)).rstrip("/"))]


class TracingSettings(Frozen):
    """OpenTelemetry spans; every other choice is OpenTelemetry's own environment (OTEL_TRACES_SAMPLER and so on)."""

    endpoint: Collector | None = Field(
        None,
        description="OTLP/HTTP collector, without /v1/traces; where unset, OTEL_EXPORTER_OTLP_ENDPOINT decides.",
    )
    service_name: str = Field("wave-serve", description="Name of this service; OTEL_SERVICE_NAME overrides it.")
    flush: float = Field(3.0, gt=0, description="Seconds that the last spans may take to leave at the end.")
