"""What a key allows over gRPC, and a stream that outlives its key."""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deployments.access.ended_keys import EndedKeys
from deployments.control.catalog import Catalog
from deployments.protocols.grpc import messages
from deployments.settings import Limits
from tests.deployments.callers import encode_caller
from tests.deployments.control.conftest import LocalClient
from tests.deployments.control.grpc_calls import SECRET, call, infer_request, open_stream, run_gateway

pytestmark = pytest.mark.anyio


def name_caller(allow: str, name: str = "acme/ci") -> tuple[tuple[str, str], ...]:
    return (("x-shoal-edge", SECRET), ("x-shoal-caller", encode_caller(name, allow)))


async def get_code(calling: Awaitable[Any]) -> grpc.StatusCode:
    try:
        await calling
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("allow", "reads", "computes"),
    [("predict:flowers", True, True), ("read:flowers", True, False), ("predict:images,keys,audit", False, False)],
)
async def test_a_call_does_what_the_key_allows(
    catalog: Catalog, local_client: LocalClient, allow: str, reads: bool, computes: bool
) -> None:
    metadata = name_caller(allow)
    may_read = grpc.StatusCode.OK if reads else grpc.StatusCode.PERMISSION_DENIED
    may_compute = grpc.StatusCode.OK if computes else grpc.StatusCode.PERMISSION_DENIED
    async with run_gateway(catalog.status, local_client, Limits()) as channel:
        for method, request, expected in (
            ("ModelReady", messages.ModelReadyRequest(name="flowers"), may_read),
            ("ModelMetadata", messages.ModelMetadataRequest(name="flowers"), may_read),
            ("ModelInfer", infer_request(), may_compute),
            ("ServerMetadata", messages.ServerMetadataRequest(), grpc.StatusCode.OK),
        ):
            assert await get_code(call(channel, method, request, metadata=metadata)) == expected, method
        stream = open_stream(channel, metadata=metadata)
        await stream.write(infer_request())
        await stream.done_writing()
        response = await stream.read()
        assert bool(response.infer_response.outputs) == computes
        assert ("does not allow predict:flowers" in response.error_message) != computes
        service = health_pb2.HealthCheckRequest(service="flowers")
        code = await get_code(health_pb2_grpc.HealthStub(channel).Check(service, metadata=metadata))
        assert (code == grpc.StatusCode.PERMISSION_DENIED) != reads


async def test_an_expired_key_is_unauthenticated(catalog: Catalog, local_client: LocalClient) -> None:
    metadata = (("x-shoal-edge", SECRET), ("x-shoal-caller", "acme/ci|abc|1000000000|admin"))
    async with run_gateway(catalog.status, local_client, Limits()) as channel:
        code = await get_code(call(channel, "ModelInfer", infer_request(), metadata=metadata))

    assert code == grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("how", ["revoked", "expired"])
async def test_a_stream_ends_with_its_key(catalog: Catalog, local_client: LocalClient, how: str) -> None:
    ended_keys, ends_s = EndedKeys(), time.time() + 2
    expires = f"{ends_s:.0f}" if how == "expired" else ""
    metadata = (("x-shoal-edge", SECRET), ("x-shoal-caller", f"acme/ci|abc|{expires}|admin"))
    async with run_gateway(catalog.status, local_client, Limits(), ended_keys) as channel:
        stream = open_stream(channel, metadata=metadata)
        await stream.write(infer_request())
        assert (await stream.read()).infer_response.outputs

        ended_keys.follow({"another"})
        if how == "revoked":
            await stream.write(infer_request())
            assert (await stream.read()).infer_response.outputs
            ended_keys.follow({"abc"})
        else:
            await asyncio.sleep(3)
        await stream.write(infer_request())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()

    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert how in str(caught.value.details())
