"""Ray's private names are those that were read, and a change of Ray is refused or costs time, never a request."""

import asyncio
import inspect
from typing import Any

import pytest
import ray
from ray.serve._private import replica
from ray.serve.handle import DeploymentResponse

from deployments.ray_internals import RAY_VERSION, assignment_of, bind_replica_port
from training.errors import ServiceError


def test_the_installed_ray_is_the_one_that_was_read() -> None:
    # Another Ray? Read every name in deployments/ray_internals.py again, then change RAY_VERSION.
    assert ray.__version__ == RAY_VERSION


def test_a_replicas_port_is_bound_to_its_own_host(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses: list[str] = []
    monkeypatch.setattr(replica, "add_port_to_grpc_server", lambda server, address: addresses.append(address))

    bind_replica_port("127.0.0.1")
    bind_replica_port("127.0.0.1")
    vars(replica)["add_port_to_grpc_server"](None, "[::]:0")

    assert addresses == ["127.0.0.1:0"]


def test_a_replica_refuses_to_start_where_its_port_cannot_be_bound_to_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica, "add_port_to_grpc_server", lambda server, address: 1)
    bind_replica_port("127.0.0.1")
    with pytest.raises(ServiceError, match=r"0\.0\.0\.0:0.*install ray=="):
        vars(replica)["add_port_to_grpc_server"](None, "0.0.0.0:0")

    monkeypatch.delattr(replica, "add_port_to_grpc_server")
    with pytest.raises(ServiceError, match=r"no add_port_to_grpc_server; install ray=="):
        bind_replica_port("127.0.0.1")


def test_a_handle_call_has_a_future_of_its_assignment() -> None:
    assert "_replica_result_future" in inspect.getsource(DeploymentResponse.__mro__[1].__init__)
    assert assignment_of(object()) is None  # type: ignore[arg-type]


def test_a_future_of_an_assignment_is_returned_as_it_is() -> None:
    async def run() -> None:
        response: Any = type("Response", (), {})()
        response._replica_result_future = asyncio.get_running_loop().create_future()
        assert assignment_of(response) is response._replica_result_future

    asyncio.run(run())
