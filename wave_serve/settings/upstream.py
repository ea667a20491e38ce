"""One vLLM server, or all that a name or a file lists: where, what they serve, what they want to see before that."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from wave_serve.settings.secret import ENVIRONMENT, FILE, WITH_CREDENTIALS, HeaderName, HeaderText, Secret, unshown
from wave_serve.settings.section import Frozen, root_url

NOT_ITS_OWN = ("accept-encoding", "connection", "content-length", "content-type", "te", "transfer-encoding", "upgrade")
"""Headers that the gateway sets by itself, or that belong to the connection."""


Root = Annotated[str, root_url("give them as api_key or headers, env:NAME or file:PATH")]
PLACES = ("base_url", "dns", "srv", "file")


class UpstreamSettings(Frozen):
    """One vLLM server by its `base_url`, or all servers that `dns`, `srv` or `file` list, as they come and go."""

    base_url: Root | None = Field(
        None, description="Root of the server, without /v1.", examples=["http://127.0.0.1:8001"]
    )
    dns: Root | None = Field(
        None,
        description="Instead of base_url: a root whose host is a name; each of its addresses (A, AAAA) is a server, "
        "such as http://vllm.default.svc.cluster.local:8000 of a headless service.",
    )
    srv: Root | None = Field(
        None,
        description="Instead: a root whose host is the name of SRV records; each target and port is a server, "
        "such as http://_http._tcp.vllm.default.svc.cluster.local.",
    )
    file: Path | None = Field(None, description="Instead: a file (YAML or JSON) with a list of roots.")
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

    @property
    def place(self) -> str:
        """Where its servers are, in a message."""
        field = next(field for field in PLACES if getattr(self, field) is not None)
        value = getattr(self, field)
        return str(value) if field == "base_url" else f"{field} {value}"

    @model_validator(mode="after")
    def _is_in_one_place(self) -> Self:
        given = [field for field in PLACES if getattr(self, field) is not None]
        if len(given) != 1:
            raise ValueError(f"one of {', '.join(PLACES)} is needed, got {' and '.join(given) or 'none'}")
        return self

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
            root = self.base_url or self.dns or self.srv
            if getattr(self, field) is not None and root is not None and not root.startswith("https:"):
                raise unshown(f"{field} needs a base_url with https")
        if self.client_key is not None and self.client_certificate is None:
            raise unshown("client_key needs client_certificate beside it")
        return self
