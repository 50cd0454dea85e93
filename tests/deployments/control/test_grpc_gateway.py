"""The gRPC gateway, on a real gRPC server in this process; tests/e2e has Triton's client against a cluster."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from deployments.control.catalog import Catalog
from deployments.errors import QueueFull
from deployments.protocols.grpc import messages
from deployments.server.scheduling import BATCH
from deployments.settings import Limits
from tests.deployments.callers import encode_caller
from tests.deployments.control.conftest import LocalClient
from tests.deployments.control.grpc_calls import METADATA, call, infer_request, open_stream, run_gateway

pytestmark = pytest.mark.anyio


@pytest.fixture
async def channel(catalog: Catalog, local_client: LocalClient) -> AsyncIterator[Any]:
    async with run_gateway(catalog.status, local_client, Limits(request_timeout_s=7.0)) as channel:
        yield channel


async def test_a_request_gets_its_models_response(channel: Any) -> None:
    response = await call(channel, "ModelInfer", infer_request())

    assert (response.model_name, response.model_version) == ("flowers", "1")
    assert list(response.outputs[0].shape) == [1, 3]


async def test_a_calls_initial_metadata_says_what_answered(channel: Any, catalog: Catalog) -> None:
    (flowers,) = [each for each in catalog.list_deployed_models() if each.deployment.name == "flowers"]
    served = {"x-shoal-model": "flowers", "x-shoal-version": "1", "x-shoal-digest": flowers.manifest.digest}
    stub = channel.unary_unary(
        f"/{messages.SERVICE_NAME}/ModelInfer", request_serializer=lambda message: message.SerializeToString()
    )

    unary = stub(infer_request(), metadata=(*METADATA, ("x-request-id", "r1")))
    unary_metadata = dict(await unary.initial_metadata())
    await unary
    stream = open_stream(channel)
    for request in (infer_request(), infer_request(id="second")):
        await stream.write(request)
    await stream.done_writing()
    responses = [response async for response in stream]

    assert unary_metadata == served | {"x-request-id": "r1"}
    assert dict(await stream.initial_metadata()) == served
    assert [response.error_message for response in responses] == ["", ""]


async def test_the_callers_deadline_or_the_services_limit_is_the_models(
    channel: Any, local_client: LocalClient
) -> None:
    await call(channel, "ModelInfer", infer_request())
    await call(channel, "ModelInfer", infer_request(), timeout=3)

    limit_s, deadline_s = local_client.timeouts_s[-2:]
    assert limit_s == 7.0
    assert 0 < deadline_s < 4


async def test_the_priority_of_the_metadata_is_the_models(channel: Any, local_client: LocalClient) -> None:
    await call(channel, "ModelInfer", infer_request(), metadata=(*METADATA, ("x-request-priority", "batch")))
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call(channel, "ModelInfer", infer_request(), metadata=(*METADATA, ("x-request-priority", "soon")))

    assert local_client.priorities[-1] == BATCH
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_call_is_split_by_what_the_edge_says_of_its_caller(channel: Any, local_client: LocalClient) -> None:
    metadata = (*METADATA, ("x-shoal-caller", encode_caller("ann")), ("x-request-id", "r1"), ("x-user", "u1"))
    await call(channel, "ModelInfer", infer_request(), metadata=metadata)

    origin = local_client.origins[-1]
    assert origin is not None
    assert (origin.caller, origin.request_id, origin.headers["x-user"]) == ("ann", "r1", "u1")


async def test_an_overloaded_model_says_when_to_come_back(
    channel: Any, local_client: LocalClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any) -> Any:
        raise QueueFull("the rows ahead take about 7 s", 7)

    monkeypatch.setattr(local_client, "infer", refuse)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call(channel, "ModelInfer", infer_request())

    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(error.value.trailing_metadata())["grpc-retry-pushback-ms"] == "7000"


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


@pytest.mark.parametrize("metadata", [(), (("x-shoal-edge", "x"),), (("authorization", "Bearer of the edge"),)])
async def test_a_call_without_the_edges_secret_is_refused_before_its_message_is_taken(
    channel: Any, metadata: tuple[tuple[str, str], ...], local_client: LocalClient
) -> None:
    calls = len(local_client.timeouts_s)

    for method in ("ServerReady", "ModelInfer"):
        request = getattr(messages, f"{method}Request")()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call(channel, method, request, metadata=metadata)
        assert error.value.code() == grpc.StatusCode.PERMISSION_DENIED
    stream = open_stream(channel, metadata=metadata)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stream.read()

    assert error.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert "Shoal's edge alone" in error.value.details()
    assert len(local_client.timeouts_s) == calls


async def test_the_secret_may_come_among_other_metadata(channel: Any) -> None:
    metadata = (("x-other", "1"), *METADATA, ("x-shoal-edge-2", "x"))

    assert (await call(channel, "ServerReady", messages.ServerReadyRequest(), metadata=metadata)).ready


async def test_more_calls_than_the_limit_are_refused(catalog: Catalog, local_client: LocalClient) -> None:
    async with run_gateway(catalog.status, local_client, Limits(max_queue=1)) as channel:
        stream = open_stream(channel)
        await stream.write(infer_request())
        assert (await stream.read()).infer_response.model_name == "flowers"

        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call(channel, "ServerLive", messages.ServerLiveRequest())
        await stream.done_writing()

    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
