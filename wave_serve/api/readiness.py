"""Whether the gateway can do its work, and what of it."""

from typing import Literal

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from wave_serve.errors import unavailable
from wave_serve.gateway import Gateway
from wave_serve.upstream.upstream import Upstream


class Health(TypedDict):
    """A process that answers."""

    status: Literal["ok"]


@with_config(ConfigDict(use_attribute_docstrings=True))
class Ready(TypedDict):
    """A gateway that can do its work."""

    status: Literal["ready"]
    upstreams: dict[str, str]
    """By base_url: ready, or why not; by dns, srv or file: why it was not looked up."""
    models: dict[str, str]
    """By name: ready, or that no upstream is."""


def readiness(gateway: Gateway) -> Ready:
    """State of every upstream, and whether each model has one that answers its requests.

    Raises:
        ApiError: 503 with the reasons where no upstream does, or where the gateway is shutting down.
    """
    retry_after = gateway.settings.timeouts.retry_after
    if gateway.drain.stopping:
        raise unavailable("Not ready: shutting down", retry_after)
    states = {one.place: one.problem for one in gateway.pool.discoveries if one.problem is not None}
    states |= {upstream.base_url: _state(upstream) for upstream in (*gateway.pool.joining, *gateway.upstreams)}
    if not any(_answers(upstream) for upstream in gateway.upstreams):
        raise unavailable("Not ready: " + "; ".join(f"{url}: {state}" for url, state in states.items()), retry_after)
    models = {
        name: "ready" if any(_answers(upstream) for upstream in model.upstreams) else "no upstream is ready"
        for name, model in gateway.catalogue.models.items()
    }
    return {"status": "ready", "upstreams": states, "models": models}


def _answers(upstream: Upstream) -> bool:
    """A good health alone is not enough: an engine that is stuck may still answer its health check."""
    return upstream.ready and not upstream.ejection.active


def _state(upstream: Upstream) -> str:
    if upstream.reason is not None:
        return upstream.reason
    return upstream.ejection.reason() if upstream.ejection.active else "ready"
