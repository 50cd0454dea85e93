"""Handlers that need no task: they respond later, by a call, over real sockets."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from deployments.errors import ClientError
from deployments.models.served_model import ServedModel
from deployments.protocols.oip.codec import InferResponse
from deployments.server.request import Request, Response
from deployments.server.request_limits import RequestLimits
from deployments.server.scheduling import Scheduling
from deployments.settings import Limits
from deployments.specs.model_deployment import ModelEndpoint
from tests.deployments.server.apps import make_app
from tests.deployments.server.conftest import StartServer
from tests.deployments.server.raw_http import encode_request, open_raw
from training.bundle.verify import verify_bundle

pytestmark = pytest.mark.anyio


class LaterHandler:
    """Keeps requests until somebody responds to them."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.canceled: list[Request] = []
        self.arrival = asyncio.Event()

    def __call__(self, request: Request) -> None:
        self.requests.append(request)
        request.on_cancel = lambda: self.canceled.append(request)
        self.arrival.set()

    async def take(self) -> Request:
        async with asyncio.timeout(10):
            await self.arrival.wait()
        self.arrival.clear()
        return self.requests[-1]


async def test_a_response_may_come_later_and_the_connection_goes_on(start_server: StartServer) -> None:
    handler = LaterHandler()
    server, port = await start_server(make_app(handler))
    async with open_raw(port) as connection:
        for number in range(3):
            await connection.send(encode_request("POST", "/", b"x"))
            request = await handler.take()
            request.respond(Response(200, b"%d" % number))
            assert (await connection.read_response()).body == b"%d" % number
        await connection.send(encode_request("POST", "/", b"x"))
        (await handler.take()).fail(ClientError("not so"))
        response = await connection.read_response()

    assert (response.status, b"not so" in response.body) == (400, True)
    assert server.ongoing == 0
    assert handler.canceled == []


async def test_pipelined_requests_are_answered_in_their_order_however_many(start_server: StartServer) -> None:
    loop = asyncio.get_running_loop()

    def respond_later(request: Request) -> None:
        loop.call_soon(request.respond, Response(200, request.target))

    server, port = await start_server(make_app(respond_later))
    async with open_raw(port) as connection:
        await connection.send(b"".join(encode_request("POST", f"/{number}", b"x") for number in range(3000)))
        targets = [(await connection.read_response()).body for _ in range(3000)]

    assert targets == [b"/%d" % number for number in range(3000)]
    assert server.ongoing == 0


async def test_a_handler_that_refuses_at_once_refuses_each_of_many_pipelined_requests(
    start_server: StartServer,
) -> None:
    def refuse(request: Request) -> None:
        raise ClientError(request.path)

    server, port = await start_server(make_app(refuse))
    async with open_raw(port) as connection:
        await connection.send(b"".join(encode_request("POST", f"/{number}", b"x") for number in range(3000)))
        responses = [await connection.read_response() for _ in range(3000)]

    assert all(b'"/%d"' % number in response.body for number, response in enumerate(responses))
    assert {response.status for response in responses} == {400}
    assert server.ongoing == 0


async def test_the_work_for_a_caller_who_leaves_is_dropped(start_server: StartServer) -> None:
    handler = LaterHandler()
    server, port = await start_server(make_app(handler))
    async with open_raw(port) as connection:
        await connection.send(encode_request("POST", "/", b"x"))
        request = await handler.take()
    async with asyncio.timeout(10):
        while server.ongoing:
            await asyncio.sleep(0.01)
    request.respond(Response(200, b"too late"))
    request.fail(ValueError("too late"))

    assert handler.canceled == [request]
    assert server.ongoing == 0


async def test_the_work_for_a_late_request_is_dropped_and_its_caller_told(start_server: StartServer) -> None:
    handler = LaterHandler()
    server, port = await start_server(make_app(handler, RequestLimits(Limits(request_timeout_s=0.2))))
    async with open_raw(port) as connection:
        await connection.send(encode_request("POST", "/", b"x"))
        request = await handler.take()
        late = await connection.read_response()
        request.respond(Response(200, b"too late"))
        await connection.send(encode_request("POST", "/", b"x"))
        (await handler.take()).respond(Response(200, b"in time"))
        response = await connection.read_response()

    assert (late.status, response.body) == (504, b"in time")
    assert handler.canceled == [request]
    assert server.ongoing == 0


class SubmittedModel:
    """A model of real rows, asked both ways."""

    def __init__(self, bundle: Path, cache: Path) -> None:
        digest = verify_bundle(bundle).digest
        self.model = ServedModel(ModelEndpoint(name="flowers", version=3, digest=digest, uri=str(bundle)), cache)

    async def submit(self, body: bytes, length: int | None, scheduling: Scheduling | None = None) -> InferResponse:
        future: asyncio.Future[InferResponse] = asyncio.get_running_loop().create_future()

        def settle(result: InferResponse | Exception) -> None:
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

        assert self.model.submit_infer(body, length, scheduling, settle) is not None
        return await future


@pytest.fixture
def submitted(table_bundle: Path, tmp_path: Path) -> SubmittedModel:
    return SubmittedModel(table_bundle, tmp_path)


INPUT = b'"name":"input","datatype":"FP32"'
BYTES_16 = np.arange(4, dtype=np.float32).tobytes()
BINARY = b'{"inputs":[{%b,"shape":[1,4],"parameters":{"binary_data_size":16}}]}' % INPUT


@pytest.mark.parametrize(
    ("body", "length"),
    [
        (b'{"inputs":[{%b,"shape":[2,4],"data":[1,2,3,4,5,6,7,8.5]}]}' % INPUT, None),
        (b'{"id":"7","inputs":[{%b,"shape":[1,4],"data":[[1,2,3,4]]}],"parameters":{"priority":2}}' % INPUT, None),
        (b'{"inputs":[{%b,"shape":[1,4],"data":[1,2,3,4]}],"parameters":{"timeout":9000000}}' % INPUT, None),
        (BINARY + BYTES_16, len(BINARY)),
    ],
)
async def test_a_submitted_request_gets_what_an_awaited_one_gets(
    submitted: SubmittedModel, body: bytes, length: int | None
) -> None:
    assert await submitted.submit(body, length) == await submitted.model.infer(body, length)


async def test_a_submitted_request_is_refused_as_an_awaited_one(submitted: SubmittedModel) -> None:
    body = b'{"inputs":[{%b,"shape":[1,3],"data":[1,2,3]}]}' % INPUT
    with pytest.raises(ClientError) as awaited:
        await submitted.model.infer(body)
    with pytest.raises(ClientError, match="shape"):
        await submitted.submit(body, None)

    assert "shape" in awaited.value.message


async def test_a_large_request_is_not_submitted(submitted: SubmittedModel) -> None:
    body = b'{"inputs":[{%b,"shape":[1,4],"data":[1,2,3,4]}]}' % INPUT + b" " * 2**16

    assert submitted.model.submit_infer(body, None, None, lambda result: None) is None


async def test_an_abandoned_request_is_not_computed(submitted: SubmittedModel) -> None:
    body = b'{"inputs":[{%b,"shape":[1,4],"data":[1,2,3,4]}]}' % INPUT
    results: list[InferResponse | Exception] = []
    pending = submitted.model.submit_infer(body, None, None, results.append)
    assert pending is not None
    pending.abandon()
    await submitted.submit(body, None)

    assert results == []
    assert submitted.model.report_passes().abandoned_rows == 1
