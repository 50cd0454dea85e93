"""A gRPC gateway in this process, and calls to it as the edge makes them."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

from deployments.access.ended_keys import EndedKeys
from deployments.control.grpc_gateway import GrpcService, Health, build_server
from deployments.control.sleeping import SleepingModels, load_bundle_content
from deployments.control.status import DeploymentStatus
from deployments.protocols.grpc import messages
from deployments.settings import Limits
from tests.deployments.callers import TESTER

SECRET = "of the edge"
SETTLE_S = 0.05
METADATA = (("x-shoal-edge", SECRET), ("x-shoal-caller", TESTER))


@contextlib.asynccontextmanager
async def run_gateway(
    status: DeploymentStatus, client: Any, limits: Limits, ended_keys: EndedKeys | None = None
) -> AsyncIterator[Any]:
    """Serve on a free port; yields a channel to it."""
    sleeping = SleepingModels(status, functools.partial(load_bundle_content, Path()))
    server = build_server(
        GrpcService(status, client, limits, sleeping, ended_keys=ended_keys),
        Health(status, client, ended_keys),
        limits,
        SECRET,
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(None)
        # gRPC has one poller for all loops of a process: what comes later would raise in the loop of the next test.
        await asyncio.sleep(SETTLE_S)


async def call(channel: Any, method: str, request: Any, **options: Any) -> Any:
    """Call a unary method."""
    response_class = getattr(messages, f"{method}Response")
    stub = channel.unary_unary(
        f"/{messages.SERVICE_NAME}/{method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=response_class.FromString,
    )
    return await stub(request, **{"metadata": METADATA} | options)


def open_stream(channel: Any, **options: Any) -> Any:
    """Open a call of ModelStreamInfer."""
    stub = channel.stream_stream(
        f"/{messages.SERVICE_NAME}/ModelStreamInfer",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=messages.ModelStreamInferResponse.FromString,
    )
    return stub(**{"metadata": METADATA} | options)


def infer_request(**fields: Any) -> Any:
    """A ModelInferRequest to `flowers`."""
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 4], "contents": {"fp32_contents": [5.1, 3.5, 1.4, 0.2]}}
    return messages.ModelInferRequest(**{"model_name": "flowers", "inputs": [tensor]} | fields)
