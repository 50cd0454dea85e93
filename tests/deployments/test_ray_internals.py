"""Ray's private names are those that were read, and a change of Ray is refused or costs time, never a request."""

import asyncio
import inspect
from hashlib import sha256
from typing import Any

import pytest
import ray
from ray.serve._private import replica
from ray.serve.handle import DeploymentResponse

from deployments import ray_internals
from deployments.ray_internals import RAY_VERSION, ReplicaIngress, assignment_of, bind_replica_port
from training.errors import ServiceError


def test_the_installed_ray_is_the_one_that_was_read() -> None:
    # Another Ray? Read every name in deployments/ray_internals.py again, then change RAY_VERSION.
    assert ray.__version__ == RAY_VERSION


def test_the_steps_that_the_fast_path_replaces_are_those_that_were_read() -> None:
    steps = [
        replica.Replica._direct_ingress_asgi,
        replica.Replica._wrap_request,
        replica.Replica._start_request,
        replica.Replica._handle_errors_and_metrics,
        replica.Replica._record_errors_and_metrics,
    ]

    digest = sha256("".join(map(inspect.getsource, steps)).encode()).hexdigest()

    # Another Ray? Read these again, beside deployments/server/fast_path.py, then write its digest here.
    assert digest.startswith("2872a79727b7")


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


def test_requests_take_rays_own_way_in_another_ray(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    built: list[ReplicaIngress] = []
    monkeypatch.setattr(ray, "__version__", "2.61.0")
    monkeypatch.setattr(ray_internals.logger, "propagate", True)

    ray_internals.replace_replica_ingress(built.append)  # type: ignore[arg-type]

    assert built == []
    assert "requests take Ray's own way in: Ray 2.61.0: its replica may have changed; install ray==" in caplog.text


def test_a_handle_call_has_a_future_of_its_assignment() -> None:
    assert "_replica_result_future" in inspect.getsource(DeploymentResponse.__mro__[1].__init__)
    assert assignment_of(object()) is None  # type: ignore[arg-type]


def test_a_future_of_an_assignment_is_returned_as_it_is() -> None:
    async def run() -> None:
        response: Any = type("Response", (), {})()
        response._replica_result_future = asyncio.get_running_loop().create_future()
        assert assignment_of(response) is response._replica_result_future

    asyncio.run(run())
