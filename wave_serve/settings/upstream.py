"""One vLLM server: where it is, what it serves, and what it wants to see before it answers."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from wave_serve.settings.secret import ENVIRONMENT, FILE, WITH_CREDENTIALS, HeaderName, HeaderText, Secret, unshown
from wave_serve.settings.section import Frozen, root_url

NOT_ITS_OWN = ("accept-encoding", "connection", "content-length", "content-type", "te", "transfer-encoding", "upgrade")
"""Headers that the gateway sets by itself, or that belong to the connection."""


class UpstreamSettings(Frozen):
    """One vLLM server."""

    base_url: Annotated[str, root_url("give them as api_key or headers, env:NAME or file:PATH")] = Field(
        description="Root of the server, without /v1.", examples=["http://127.0.0.1:8001"]
    )
    models: tuple[str, ...] = Field(
        min_length=1, description="Names under which it serves its models.", examples=[["wave-demo"]]
    )
    keeps_responses: bool = Field(
        False, description="Whether it keeps responses of /v1/responses: VLLM_ENABLE_RESPONSES_API_STORE=1."
    )
    api_key: Secret | None = Field(
        None, description="Its API key, sent as a bearer token: env:NAME (a variable that holds it) or file:PATH."
    )
    headers: dict[HeaderName, HeaderText] = Field(
        default_factory=dict, description="Further headers that it needs, by name: env:NAME, file:PATH or the value."
    )
    ca_file: Path | None = Field(
        None, description="Certificates (PEM) of who may vouch for it, instead of the system's; needs https."
    )
    client_certificate: Path | None = Field(
        None, description="Certificate (PEM) by which it knows the gateway; needs https."
    )
    client_key: Path | None = Field(None, description="That certificate's key (PEM), where it is not in the same file.")

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        for name, value in self.headers.items():
            if name in NOT_ITS_OWN:
                raise unshown(f"headers.{name} is not the upstream's own; the gateway sets it")
            if WITH_CREDENTIALS.fullmatch(name) and not value.startswith((ENVIRONMENT, FILE)):
                raise unshown(f"headers.{name} holds a secret: give env:NAME (a variable) or file:PATH")
        if self.api_key is not None and "authorization" in self.headers:
            raise unshown("headers.authorization and api_key are the same header; give one of them")
        for field in ("ca_file", "client_certificate"):
            if getattr(self, field) is not None and not self.base_url.startswith("https:"):
                raise unshown(f"{field} needs a base_url with https")
        if self.client_key is not None and self.client_certificate is None:
            raise unshown("client_key needs client_certificate beside it")
        return self
