"""Serving: what is deployed and how it is served: the edge, Serve applications, their servers, the Python client.

A walk is the path of a request, or of a deployment, through the files, in the order in which they act.

Request walk: server.http_server -> server.http_exchange -> server.request -> server.middleware -> server.routes
    -> models.served_model -> protocols -> models.batching
Deploy walk: applications -> models.replica -> models.served_model -> models.variants -> models.batching

A request comes from the edge, where HAProxy has checked its key (edge/haproxy.cfg.j2), to the replica's own server. It
passes the middleware (errors, the edge's secret, limits) and its route; the protocol's codec decodes it to rows,
the batcher puts rows of several requests through the net together, and the codec encodes the outputs. A deployment is
described by `specs`, kept by `state`, and becomes a Serve application in `applications`.

The names below are what users and `cluster` build on, imported on first use: importing this package imports nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deployments.applications import build_serve_config
    from deployments.client import AsyncClient, AsyncStream, Client, Stream
    from deployments.errors import CallError, ClientError, ConnectionFailed, ProtocolError, ResponseTimeout
    from deployments.protocols.predict.events import TextChunk
    from deployments.settings import Limits, ServingSettings
    from deployments.specs.deployment import PipelineDeployment, PipelineEndpoint
    from deployments.specs.model_deployment import ModelDeployment, ModelEndpoint, Scale
    from deployments.specs.pipeline import Branch, Case, Ensemble, FanOut, ModelNode, Pipeline, PipelineScale, Sequence
    from deployments.state.store import DeploymentStore

__all__ = [
    "AsyncClient",
    "AsyncStream",
    "Branch",
    "CallError",
    "Case",
    "Client",
    "ClientError",
    "ConnectionFailed",
    "DeploymentStore",
    "Ensemble",
    "FanOut",
    "Limits",
    "ModelDeployment",
    "ModelEndpoint",
    "ModelNode",
    "Pipeline",
    "PipelineDeployment",
    "PipelineEndpoint",
    "PipelineScale",
    "ProtocolError",
    "ResponseTimeout",
    "Scale",
    "Sequence",
    "ServingSettings",
    "Stream",
    "TextChunk",
    "build_serve_config",
]

_MODULES = {
    "applications": ("build_serve_config",),
    "client": ("AsyncClient", "AsyncStream", "Client", "Stream"),
    "errors": ("CallError", "ClientError", "ConnectionFailed", "ProtocolError", "ResponseTimeout"),
    "protocols.predict.events": ("TextChunk",),
    "settings": ("Limits", "ServingSettings"),
    "specs.model_deployment": ("ModelDeployment", "ModelEndpoint", "Scale"),
    "specs.pipeline": ("Branch", "Case", "Ensemble", "FanOut", "ModelNode", "Pipeline", "PipelineScale", "Sequence"),
    "specs.deployment": ("PipelineDeployment", "PipelineEndpoint"),
    "state.store": ("DeploymentStore",),
}


def __getattr__(name: str) -> Any:
    """Import a public name on its first use."""
    for module, names in _MODULES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
