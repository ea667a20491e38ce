"""Every option and its default, in frozen models; the command line and the example file derive from these."""

from typing import Annotated, Self

from pydantic import Field, PositiveInt, model_validator

from wave_serve.settings.address import is_loopback
from wave_serve.settings.model import ModelSettings
from wave_serve.settings.scale import DiscoverySettings, LimitsSettings
from wave_serve.settings.section import Frozen
from wave_serve.settings.service import AuthSettings, CorsSettings, EngineSettings, TracingSettings
from wave_serve.settings.traffic import AdmissionSettings, RoutingSettings, TimeoutSettings
from wave_serve.settings.upstream import UpstreamSettings

Port = Annotated[int, Field(ge=1, le=65535)]


class Settings(Frozen):
    """The whole configuration."""

    host: str = Field("127.0.0.1", pattern=r"^[^\s/]+$", description="Address to listen on; 0.0.0.0 for all.")
    port: Port = Field(8000, description="Port to listen on.")
    max_head_bytes: Annotated[int, Field(ge=1024)] = Field(
        2**16, description="Largest head of a request: its URL and headers; more is a 414 or 431."
    )
    max_headers: PositiveInt = Field(100, description="Most headers of a request; more is a 431.")
    max_body_bytes: PositiveInt = Field(32 * 2**20, description="Largest request body.")
    large_body_bytes: PositiveInt = Field(
        2**20, description="Larger bodies are read by a process of their own, so that others are answered meanwhile."
    )
    page: bool | None = Field(
        None,
        description="Serve the page at / for a first look; where unset, on a loopback address without API keys only.",
    )
    models: dict[str, ModelSettings] = Field(
        default_factory=dict, description="Policy by model name.", examples=["wave-demo"]
    )
    aliases: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="Several models under one name; a request for it goes to the narrowest window that it fits.",
    )
    upstreams: tuple[UpstreamSettings, ...] = Field((), description="The vLLM servers of `gateway`.")
    timeouts: TimeoutSettings = TimeoutSettings()
    discovery: DiscoverySettings = DiscoverySettings()
    auth: AuthSettings = AuthSettings()
    limits: LimitsSettings = LimitsSettings()
    cors: CorsSettings = CorsSettings()
    admission: AdmissionSettings = AdmissionSettings()
    routing: RoutingSettings = RoutingSettings()
    tracing: TracingSettings = TracingSettings()
    engine: EngineSettings = EngineSettings()

    @property
    def on_loopback(self) -> bool:
        """Whether no other machine reaches the gateway's port."""
        return is_loopback(self.host)

    @model_validator(mode="after")
    def _aliases_name_models(self) -> Self:
        for alias, members in self.aliases.items():
            if alias in self.models:
                raise ValueError(f"aliases.{alias} is the name of a model")
            if not members:
                raise ValueError(f"aliases.{alias} names no model")
            for model in members:
                if model not in self.models and self.upstreams:
                    raise ValueError(f"aliases.{alias} names {model!r}, which is not described under models")
        return self

    @model_validator(mode="after")
    def _upstreams_and_models_agree(self) -> Self:
        if not self.upstreams:
            return self
        for index, upstream in enumerate(self.upstreams):
            for model in upstream.models:
                if model not in self.models:
                    raise ValueError(f"upstreams.{index}.models names {model!r}, which is not described under models")
        served = {model for upstream in self.upstreams for model in upstream.models}
        for name, model_settings in self.models.items():
            if name not in served:
                raise ValueError(f"models.{name} is served by no upstream")
            for field in ("max_extrapolation", "validated_length", "zones"):
                if model_settings.train_length is None and _asked(model_settings, field):
                    raise ValueError(f"models.{name}.{field} needs train_length beside it")
        return self


def _asked(section: Frozen, field: str) -> bool:
    """Whether a field was given a value other than null."""
    return field in section.model_fields_set and getattr(section, field) is not None
