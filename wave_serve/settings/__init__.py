"""Every option of the gateway, its default and its description: frozen pydantic models, one file for each subject.

Everyone imports the sections from here; `file` reads them from YAML and `example` writes an example of it.
It imports nothing of the rest of the gateway.
"""

from wave_serve.settings.model import ModelSettings, Overflow, ZoneAction, ZoneSettings
from wave_serve.settings.root import Settings
from wave_serve.settings.scale import DiscoverySettings, LimitsSettings, WithoutStore
from wave_serve.settings.section import Frozen, redacted, root_url
from wave_serve.settings.service import AuthSettings, CorsSettings, EngineSettings, TracingSettings
from wave_serve.settings.traffic import AdmissionSettings, NewDocuments, RoutingSettings, TimeoutSettings
from wave_serve.settings.upstream import UpstreamSettings

__all__ = [
    "AdmissionSettings",
    "AuthSettings",
    "CorsSettings",
    "DiscoverySettings",
    "EngineSettings",
    "Frozen",
    "LimitsSettings",
    "ModelSettings",
    "NewDocuments",
    "Overflow",
    "RoutingSettings",
    "Settings",
    "TimeoutSettings",
    "TracingSettings",
    "UpstreamSettings",
    "WithoutStore",
    "ZoneAction",
    "ZoneSettings",
    "redacted",
    "root_url",
]
