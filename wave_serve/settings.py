"""Every option and its default, in frozen models; the command line and the example file derive from these."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, HttpUrl, PositiveFloat, PositiveInt, model_validator

from wave_serve.settings_admission import AdmissionSettings
from wave_serve.settings_auth import AuthSettings
from wave_serve.settings_context import Overflow, ZoneSettings
from wave_serve.settings_routing import RoutingSettings
from wave_serve.settings_section import Frozen
from wave_serve.settings_tracing import TracingSettings


def _without_trailing_slash(url: str) -> str:
    return str(HttpUrl(url)).rstrip("/")


BaseUrl = Annotated[str, AfterValidator(_without_trailing_slash)]
Port = Annotated[int, Field(ge=1, le=65535)]


class ModelSettings(Frozen):
    """Policy for one model; all lengths are in tokens."""

    train_length: PositiveInt | None = Field(None, description="Length the checkpoint was trained at.", examples=[512])
    tokenizer: Path | None = Field(
        None, description="The checkpoint's tokenizer.json; without it prompts are counted by the upstream."
    )
    vocab_size: PositiveInt | None = Field(
        None, description="Token ids below this are valid; else the upstream judges."
    )
    max_tokens: PositiveInt | None = Field(None, description="Hard cap on prompt + completion.")
    max_extrapolation: PositiveFloat | None = Field(
        80.0, description="Cap as a multiple of train_length; without a default where max_tokens is given."
    )
    overflow: Overflow = Field(
        Overflow.REJECT,
        description="What to do with a prompt over the cap, unless the request says it: reject, or cut away its head, "
        "middle or tail (truncate_head, truncate_middle, truncate_tail).",
    )
    truncate_up_to: Annotated[float, Field(ge=1)] = Field(
        8.0, description="Longest prompt that is truncated, as a multiple of the cap; longer ones are refused."
    )
    default_max_completion_tokens: PositiveInt = Field(
        256, description="Completion length where the request names none and the cap leaves room."
    )
    clamp_max_tokens: bool = Field(False, description="Lower a too large max_tokens instead of refusing it.")
    max_sequences: PositiveInt = Field(128, description="Most completions of one request: prompts times n.")
    validated_length: PositiveInt | None = Field(
        None,
        description="Longest context that was measured to be good; `serve` reads it from the checkpoint's eval.json.",
    )
    validated_tolerance: Annotated[float, Field(ge=0)] = Field(
        0.02,
        description="Most that the loss per token may rise above its best at shorter lengths for a length of eval.json "
        "to count as good, as a fraction.",
    )
    zones: ZoneSettings = Field(
        ZoneSettings(), description="What happens by how far prompt + completion reach; needs train_length."
    )

    @model_validator(mode="before")
    @classmethod
    def _explicit_cap_replaces_the_default(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("max_tokens") is not None:
            return {"max_extrapolation": None} | values
        return values


class UpstreamSettings(Frozen):
    """One vLLM server."""

    base_url: BaseUrl = Field(description="Root of the server, without /v1.", examples=["http://127.0.0.1:8001"])
    models: tuple[str, ...] = Field(
        min_length=1, description="Names under which it serves its models.", examples=[["wave-demo"]]
    )


class TimeoutSettings(Frozen):
    """Deadlines, in seconds."""

    body: PositiveFloat = Field(
        60.0, description="For a request's head, and its whole body, to arrive; a late body is a 408."
    )
    connect: PositiveFloat = Field(5.0, description="TCP connection to an upstream.")
    silence: PositiveFloat = Field(600.0, description="Longest gap without a byte from an upstream.")
    generation: PositiveFloat = Field(3600.0, description="Longest that one generation may take, queue included.")
    keep_alive: PositiveFloat = Field(10.0, description="Idle time in a stream after which a comment is sent.")
    poll: PositiveFloat = Field(1.0, description="Between two looks at an upstream's health, and at the files.")
    poll_answer: PositiveFloat = Field(10.0, description="For an upstream to answer a look at its health.")
    retry_after: PositiveInt = Field(5, description="What a client is told to wait while an upstream is down.")
    drain: PositiveFloat = Field(3.0, description="For running requests to finish after SIGTERM.")
    stop: PositiveFloat = Field(3.0, description="For the engine to end after SIGTERM, before SIGKILL.")


class EngineSettings(Frozen):
    """The vLLM server that `serve` starts and watches."""

    kv_cache_gib: PositiveInt = Field(2, description="KV cache of the CPU engine; VLLM_CPU_KVCACHE_SPACE overrides it.")
    restart_first: PositiveFloat = Field(1.0, description="Seconds before the first restart; doubles each time.")
    restart_most: PositiveFloat = Field(60.0, description="Longest wait before a restart, seconds.")
    healthy_after: PositiveFloat = Field(60.0, description="Seconds of readiness after which the wait starts anew.")
    show_log: bool = Field(False, description="Copy the engine's log to standard error.")
    args: tuple[str, ...] = Field((), description="Further arguments of `vllm serve`.")


class Settings(Frozen):
    """The whole configuration."""

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all.")
    port: Port = Field(8000, description="Port to listen on.")
    max_body_bytes: PositiveInt = Field(32 * 2**20, description="Largest request body.")
    large_body_bytes: PositiveInt = Field(
        2**20, description="Larger bodies are read by a process of their own, so that others are answered meanwhile."
    )
    models: dict[str, ModelSettings] = Field(
        default_factory=dict, description="Policy by model name.", examples=["wave-demo"]
    )
    upstreams: tuple[UpstreamSettings, ...] = Field((), description="The vLLM servers of `gateway`.")
    timeouts: TimeoutSettings = TimeoutSettings()
    auth: AuthSettings = AuthSettings()
    admission: AdmissionSettings = AdmissionSettings()
    routing: RoutingSettings = RoutingSettings()
    tracing: TracingSettings = TracingSettings()
    engine: EngineSettings = EngineSettings()

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
