"""Keeps a replica's inter-deployment port on loopback where everything else is.

Ray Serve 2.60 opens it on every interface and has no switch for that (ray/serve/_private/replica.py, _on_initialized).
It asks for Ray's token, but what it then reads is a pickle, so on a cluster of one machine nobody else shall reach it.
"""

from typing import Any

from ray.serve._private import replica


def bind_replica_port(host: str) -> None:
    """Make the server that this replica is about to start listen on `host` alone; called from its constructor."""
    listen = vars(replica)["add_port_to_grpc_server"]  # fails, rather than opening the port, if Ray ever renames it

    def listen_on_host(server: Any, address: str) -> int:
        port: int = listen(server, address.replace("[::]", host))
        return port

    vars(replica)["add_port_to_grpc_server"] = listen_on_host
