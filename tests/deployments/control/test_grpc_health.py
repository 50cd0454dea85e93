"""The gateway's grpc.health.v1 and its reflection, which probes and grpcurl ask."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from deployments.control import grpc_gateway
from deployments.control.catalog import Catalog
from deployments.settings import Limits
from tests.deployments.control.conftest import LocalClient
from tests.deployments.control.grpc_calls import METADATA, run_gateway

pytestmark = pytest.mark.anyio
STATES = health_pb2.HealthCheckResponse


@pytest.fixture
async def channel(catalog: Catalog, local_client: LocalClient) -> AsyncIterator[Any]:
    async with run_gateway(catalog.status, local_client, Limits()) as channel:
        yield channel


async def check(channel: Any, service: str) -> Any:
    request = health_pb2.HealthCheckRequest(service=service)
    return (await health_pb2_grpc.HealthStub(channel).Check(request, metadata=METADATA)).status


@pytest.mark.parametrize("service", ["", "inference.GRPCInferenceService", "flowers"])
async def test_a_service_and_a_model_that_run_are_serving(channel: Any, service: str) -> None:
    assert await check(channel, service) == STATES.SERVING


async def test_a_model_without_a_replica_is_not_serving(
    channel: Any, catalog: Catalog, applications: dict[str, SimpleNamespace]
) -> None:
    # `twice` is deployed; the client of these tests has models only.
    assert await check(channel, "twice") == STATES.NOT_SERVING

    applications["flowers"].deployments["replica"].replica_states = {"STARTING": 1}
    catalog.status._fetched_s = float("-inf")
    assert await check(channel, "") == STATES.NOT_SERVING


@pytest.mark.parametrize("service", ["flowers", "roses"])
async def test_which_models_there_are_is_told_to_callers_with_a_key(channel: Any, service: str) -> None:
    request = health_pb2.HealthCheckRequest(service=service)
    without_caller = tuple(each for each in METADATA if each[0] != "x-shoal-caller")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await health_pb2_grpc.HealthStub(channel).Check(request, metadata=without_caller)

    assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED


async def test_an_unknown_service_is_not_found(channel: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await check(channel, "roses")

    assert error.value.code() == grpc.StatusCode.NOT_FOUND


async def test_a_watch_tells_each_change_and_unknown_services(
    channel: Any, catalog: Catalog, applications: dict[str, SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_gateway, "HEALTH_WATCH_INTERVAL_S", 0.02)
    stub = health_pb2_grpc.HealthStub(channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=""), metadata=METADATA)
    unknown = stub.Watch(health_pb2.HealthCheckRequest(service="roses"), metadata=METADATA)

    assert (await watch.read()).status == STATES.SERVING
    assert (await unknown.read()).status == STATES.SERVICE_UNKNOWN
    applications["flowers"].deployments["replica"].replica_states = {"STARTING": 1}
    catalog.status._fetched_s = float("-inf")
    assert (await asyncio.wait_for(watch.read(), 5)).status == STATES.NOT_SERVING
    applications["flowers"].deployments["replica"].replica_states = {"RUNNING": 1}
    catalog.status._fetched_s = float("-inf")
    assert (await asyncio.wait_for(watch.read(), 5)).status == STATES.SERVING
    watch.cancel()
    unknown.cancel()


async def ask_reflection(channel: Any, **fields: Any) -> Any:
    stream = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(metadata=METADATA)
    await stream.write(reflection_pb2.ServerReflectionRequest(**fields))
    await stream.done_writing()
    return await stream.read()


async def test_reflection_lists_the_services(channel: Any) -> None:
    response = await ask_reflection(channel, list_services="")

    assert {each.name for each in response.list_services_response.service} == {
        "inference.GRPCInferenceService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


@pytest.mark.parametrize(
    ("symbol", "methods"),
    [
        ("inference.GRPCInferenceService", {"ModelInfer", "ModelStreamInfer", "ServerLive"}),
        ("grpc.health.v1.Health", {"Check", "Watch"}),
    ],
)
async def test_reflection_describes_a_service(channel: Any, symbol: str, methods: set[str]) -> None:
    response = await ask_reflection(channel, file_containing_symbol=symbol)

    files = [
        descriptor_pb2.FileDescriptorProto.FromString(each)
        for each in response.file_descriptor_response.file_descriptor_proto
    ]
    (service,) = [each for file in files for each in file.service if f"{file.package}.{each.name}" == symbol]
    assert methods <= {method.name for method in service.method}


@pytest.mark.parametrize("method", ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"])
async def test_health_is_for_the_edge_alone_too(channel: Any, method: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await channel.unary_unary(method)(b"")

    assert error.value.code() == grpc.StatusCode.PERMISSION_DENIED
