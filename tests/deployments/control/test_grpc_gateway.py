"""The gRPC gateway, on a real gRPC server in this process; tests/e2e has Triton's client against a cluster."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from deployments.server.authentication import Caller

from cluster.local.secrets import hash_key
from deployments.control.catalog import Catalog
from deployments.control.grpc_gateway import GrpcService
from deployments.protocols.grpc import messages
from deployments.settings import Limits
from tests.deployments.control.conftest import LocalClient

pytestmark = pytest.mark.anyio
METADATA = (("authorization", "Bearer k"),)


@pytest.fixture
async def channel(catalog: Catalog, local_client: LocalClient) -> AsyncIterator[Any]:
    limits = Limits(request_timeout_s=7.0)
    service = GrpcService(catalog.status, local_client, {hash_key("k"): Caller("tester")}, limits)  # type: ignore[arg-type]
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((service.build_handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(None)


async def call(channel: Any, method: str, request: Any, **options: Any) -> Any:
    response_class = getattr(messages, f"{method}Response")
    stub = channel.unary_unary(
        f"/{messages.SERVICE_NAME}/{method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=response_class.FromString,
    )
    return await stub(request, **{"metadata": METADATA} | options)


def infer_request(**fields: Any) -> Any:
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 4], "contents": {"fp32_contents": [5.1, 3.5, 1.4, 0.2]}}
    return messages.ModelInferRequest(**{"model_name": "flowers", "inputs": [tensor]} | fields)


async def test_a_request_gets_its_models_response(channel: Any) -> None:
    response = await call(channel, "ModelInfer", infer_request())

    assert (response.model_name, response.model_version) == ("flowers", "1")
    assert list(response.outputs[0].shape) == [1, 3]


async def test_the_callers_deadline_or_the_services_limit_is_the_models(
    channel: Any, local_client: LocalClient
) -> None:
    await call(channel, "ModelInfer", infer_request())
    await call(channel, "ModelInfer", infer_request(), timeout=3)

    limit_s, deadline_s = local_client.timeouts_s[-2:]
    assert limit_s == 7.0
    assert 0 < deadline_s < 4


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"model_name": "roses"}, grpc.StatusCode.NOT_FOUND),
        ({"model_version": "9"}, grpc.StatusCode.NOT_FOUND),
        ({"inputs": []}, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_an_error_has_the_status_that_fits(channel: Any, fields: dict[str, Any], code: grpc.StatusCode) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call(channel, "ModelInfer", infer_request(**fields))

    assert error.value.code() == code


async def test_health_is_public_and_metadata_is_not(channel: Any) -> None:
    ready = await call(channel, "ServerReady", messages.ServerReadyRequest(), metadata=())
    assert ready.ready

    request = messages.ModelMetadataRequest(name="flowers")
    assert (await call(channel, "ModelMetadata", request)).name == "flowers"
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call(channel, "ModelMetadata", request, metadata=())
    assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
