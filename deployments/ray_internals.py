"""Every private name of Ray that `deployments` uses, and no other file; checked against Ray 2.60.0 (RAY_VERSION).

What is used, which public way is missing, and what happens in another Ray:

- `serve._private.replica.add_port_to_grpc_server`. Serve opens a replica's inter-deployment port on every interface and
  has no setting for it. If it changes, the replica refuses to start.
- `DeploymentResponse._replica_result_future`. Serve queues a call without a limit while there is no replica, and does
  not tell. Without it such a call waits for its deadline; with it, it gets a 503 after some seconds.
- `serve.context._get_global_client`, `get_serve_details`. The public status in a cluster does not say how many replicas
  Serve wants; only the dashboard's REST API does, which needs its token and a process of its own. Without it
  `shoal status` asks there.
- `serve._private.constants`: the name and namespace of Serve's controller, which has no public handle. Without them a
  clock that was set back keeps Serve from replacing replicas until it has caught up.

tests/deployments/test_ray_internals.py fails where another Ray is installed.
"""

import asyncio
from typing import Any

import ray
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentResponse

from training.errors import ServiceError

RAY_VERSION = "2.60.0"
"""The Ray that these names were read in; constraints.txt pins it."""

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


def assignment_of(response: DeploymentResponse[Any]) -> "asyncio.Future[Any] | None":
    """Return the future of a handle call's assignment: done once a replica has the call; None in another Ray."""
    future = getattr(response, "_replica_result_future", None)
    # Where Serve's router has a thread of its own, it is a concurrent.futures.Future, which no event loop waits for.
    return future if asyncio.isfuture(future) else None


def fetch_serve_details() -> dict[str, Any]:
    """Fetch the state of each Serve application by name, in the form of Serve's REST API.

    Raises:
        ServiceError: the controller does not answer, or this Ray has no such call.
    """
    from pydantic_core import to_jsonable_python
    from ray.serve import context

    try:
        client = vars(context)["_get_global_client"]()
        applications: dict[str, Any] = to_jsonable_python(client.get_serve_details()["applications"])
    except (KeyError, AttributeError) as error:
        raise ServiceError(_describe_change(f"Serve's state cannot be fetched ({error!r})")) from error
    except (RayError, RayServeException) as error:
        raise ServiceError(f"Serve's controller does not answer: {type(error).__name__}") from error
    return applications


def restart_serve_controller() -> None:
    """Let Ray start Serve's controller anew, which goes on from its checkpoint; replicas go on answering.

    Its health checks are due by the wall clock (ray/serve/_private/deployment_state.py, `_last_health_check_time`):
    where that was set back by an hour, no replica that dies within the hour is found to be dead.

    Raises:
        ServiceError: it cannot be found.
    """
    from ray.serve._private import constants

    try:
        name, namespace = vars(constants)["SERVE_CONTROLLER_NAME"], vars(constants)["SERVE_NAMESPACE"]
        ray.kill(ray.get_actor(name, namespace), no_restart=False)
    except KeyError as error:
        raise ServiceError(_describe_change(f"Serve's controller has no known name ({error!r})")) from error
    except (RayError, ValueError) as error:
        raise ServiceError(f"Serve's controller is not found: {type(error).__name__}") from error


def _describe_change(change: str) -> str:
    return f"Ray {ray.__version__}: {change}; install ray=={RAY_VERSION}, as constraints.txt says"
