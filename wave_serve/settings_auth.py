"""Options of who may ask."""

from pathlib import Path

from pydantic import Field

from wave_serve.settings_section import Frozen


class AuthSettings(Frozen):
    """API keys; without any the gateway is open."""

    keys_file: Path | None = Field(
        None, description="YAML file with the keys' hashes and limits; `wave-serve keys new` writes its entries."
    )
    protect_metrics: bool = Field(False, description="Ask for a key at /metrics too.")
    protect_docs: bool = Field(False, description="Ask for a key at /docs and /openapi.json too.")
