"""Every private name of Ray that `deployments` uses, and no other file; checked against Ray 2.60.0 (RAY_VERSION).

What is used, which public way is missing, and what happens in another Ray:

- `serve._private.replica.add_port_to_grpc_server`. Serve opens a replica's inter-deployment port on every interface and
  has no setting for it. If it changes, the replica refuses to start.
- `_private.worker.global_worker`, the replica's attributes that `ReplicaIngress` holds, and `serve._private.common`.
  Serve has no hook to shorten its own steps around a request; see server/fast_path.py. With another Ray, requests
  take Ray's own path, more slowly.
- `DeploymentResponse._replica_result_future`. Serve queues a call without a limit while there is no replica, and does
  not tell. Without it such a call waits for its deadline; with it, it gets a 503 after some seconds.

tests/deployments/test_ray_internals.py fails where another Ray is installed. The first two go away when
HTTP requests no longer pass through Serve's replicas.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.serve.handle import DeploymentResponse

from training.errors import ServiceError

RAY_VERSION = "2.60.0"
"""The Ray that these names were read in; constraints.txt pins it."""

AsgiApp = Callable[..., Awaitable[None]]
logger = logging.getLogger("ray.serve")

# Ray's address of the inter-deployment port: every interface, any free port.
_ANY_HOST = "[::]"


def bind_replica_port(host: str) -> None:
    """Make the inter-deployment server that this replica is about to start listen on `host` only.

    Called from a replica's constructor; ray/serve/_private/replica.py, `_on_initialized`, starts the server after it.
    The port asks for Ray's token, but then reads a pickle, so on a cluster of one machine no other may reach it.

    Raises:
        ServiceError: this Ray starts the server in another way; the port would be open to every host.
    """
    from ray.serve._private import replica

    add_port = getattr(replica, "add_port_to_grpc_server", None)
    if add_port is None:
        raise ServiceError(_describe_change("ray.serve._private.replica has no add_port_to_grpc_server"))

    def add_port_on_host(server: Any, address: str) -> int:
        if _ANY_HOST not in address and host not in address:
            raise ServiceError(_describe_change(f"a replica's port is bound to {address!r}, not to {_ANY_HOST}"))
        port: int = add_port(server, address.replace(_ANY_HOST, host))
        return port

    vars(replica)["add_port_to_grpc_server"] = add_port_on_host


@dataclass(frozen=True)
class ReplicaIngress:
    """What Ray's replica does for each HTTP request that reaches it directly.

    Attributes:
        app: Ray's own way in, an ASGI application.
        slots: the semaphore of max_ongoing_requests.
        metrics: Ray's counters of a replica; by the ongoing requests Ray scales and drains.
        request_metadata: what those counters take of a request.
        metric_tags: the tags of an HTTP request's metrics.
        route: the application's path.
    """

    app: AsgiApp
    slots: asyncio.Semaphore
    metrics: Any
    request_metadata: Any
    metric_tags: dict[str, Any]
    route: str


def replace_replica_ingress(build_app: Callable[[ReplicaIngress], AsgiApp]) -> None:
    """Let the HTTP requests to this process's replica go to the application that `build_app` returns.

    Called when Serve builds the application, which is after the replica is made and before its server starts. With
    another Ray than RAY_VERSION nothing is replaced: even where the names are there, they may mean something else.
    """
    if ray.__version__ != RAY_VERSION:
        logger.warning("requests take Ray's own way in: %s", _describe_change("its replica may have changed"))
        return
    from ray._private.worker import global_worker
    from ray.serve._private.common import RequestMetadata, RequestProtocol

    replica = global_worker.actors[global_worker.actor_id]._replica_impl
    # An application in a thread of its own cannot be called from the server's.
    if replica._user_callable_wrapper._run_user_code_in_separate_thread:
        return
    deployment, route = replica._deployment_id, replica._route_prefix or ""
    ingress = ReplicaIngress(
        app=replica._direct_ingress_asgi,
        slots=replica._semaphore,
        metrics=replica._metrics_manager,
        request_metadata=RequestMetadata(
            request_id="",
            internal_request_id="",
            route=route,
            app_name=deployment.app_name,
            is_direct_ingress=True,
            _request_protocol=RequestProtocol.HTTP,
        ),
        metric_tags={
            "app_name": deployment.app_name,
            "deployment_name": deployment.name,
            "protocol": RequestProtocol.HTTP,
        },
        route=route,
    )
    replica._direct_ingress_asgi = build_app(ingress)


def assignment_of(response: DeploymentResponse[Any]) -> "asyncio.Future[Any] | None":
    """Return the future of a handle call's assignment: done once a replica has the call; None in another Ray."""
    future = getattr(response, "_replica_result_future", None)
    # Where Serve's router has a thread of its own, it is a concurrent.futures.Future, which no event loop waits for.
    return future if asyncio.isfuture(future) else None


def _describe_change(change: str) -> str:
    return f"Ray {ray.__version__}: {change}; install ray=={RAY_VERSION}, as constraints.txt says"
