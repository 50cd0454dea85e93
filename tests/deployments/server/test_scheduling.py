"""Deadlines and priorities of requests: from headers, parameters, handles and gRPC to the batcher."""

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator
from time import perf_counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deployments.access.authorization import Authorization
from deployments.errors import ClientError, QueueFull, encode_call_error, parse_error
from deployments.models.served_model import ServedModel
from deployments.server.http_server import HttpServer
from deployments.server.middleware import compose_http
from deployments.server.request import Request, Response
from deployments.server.routes import ModelRoutes
from deployments.server.scheduling import BATCH, INTERACTIVE, Scheduling, read_scheduling
from deployments.settings import Limits
from deployments.specs.model_deployment import ModelEndpoint
from tests.deployments.callers import TESTER, TESTER_HEADER
from tests.deployments.server.raw_http import Response as RawResponse
from tests.deployments.server.raw_http import open_raw
from tests.open_loop import OpenLoop, Step, encode_request, schedule_arrivals
from training.bundle.manifest import ModelInfo
from training.bundle.save import save_bundle
from training.schema import NumberOutput, TableInput

SECRET, NAME = "of the edge", "slow"
PASS_S = 0.03
PATH = f"/v2/models/{NAME}"
JSON = "content-type: application/json"

pytestmark = pytest.mark.anyio


class Identity(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 1


class Slow(nn.Module):
    """The bundle's net, and slow; counts its rows."""

    rows = 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        time.sleep(PASS_S)
        return x


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    """A served model of two rows per pass that takes PASS_S for each."""
    folder = tmp_path_factory.mktemp("slow")
    info = ModelInfo(
        name=NAME,
        task="tabular-regression",
        input_schema=TableInput(features=("x",)),
        output_schema=NumberOutput(name="y"),
    )
    digest = save_bundle(folder / "bundle", Identity(), inputs=torch.zeros(2, 1), info=info).digest
    limits = Limits(max_batch_rows=2, max_queue=64, request_timeout_s=5.0)
    endpoint = ModelEndpoint(name=NAME, version=1, digest=digest, uri=str(folder / "bundle"), limits=limits)
    model = ServedModel(endpoint, folder)
    model._batcher._net = Slow()
    model._batcher.warm_up(np.zeros((1, 1), np.float32))
    assert not model._batcher._inline
    return model


@pytest.fixture
async def server(model: ServedModel) -> AsyncIterator[tuple[HttpServer, int]]:
    server = HttpServer(compose_http(ModelRoutes(model), model.endpoint.limits, SECRET, Authorization()))
    yield server, await server.start("127.0.0.1")
    await server.drain(1)


async def post(port: int, *headers: str, path: str = "/predict", body: bytes = b'{"inputs": [[1]]}') -> RawResponse:
    async with open_raw(port) as connection:
        return await connection.request(
            "POST", PATH + path, body, f"x-shoal-edge: {SECRET}", f"x-shoal-caller: {TESTER}", JSON, *headers
        )


def test_a_request_without_the_headers_has_no_scheduling() -> None:
    assert read_scheduling({b"accept": b"*/*"}, 30) is None


def test_a_deadline_is_the_earlier_of_the_callers_and_the_services() -> None:
    mine = read_scheduling({b"x-request-timeout-seconds": b"0.5"}, 30)
    services = read_scheduling({b"x-request-timeout-seconds": b"1e3", b"x-request-priority": b"Batch"}, 30)

    assert mine is not None
    assert services is not None
    assert mine.remaining_s() == pytest.approx(0.5, abs=0.1)
    assert (mine.timeout_s, mine.priority) == (0.5, INTERACTIVE)
    assert services.remaining_s() == pytest.approx(30, abs=0.1)
    assert services.priority == BATCH
    assert services.without_deadline() == Scheduling(math.inf, BATCH)


@pytest.mark.parametrize("value", ["", "soon", "0", "-1", "nan", "inf", "1,5", "10 s", "0x1"])
async def test_a_timeout_that_is_no_number_of_seconds_is_refused(server: tuple[HttpServer, int], value: str) -> None:
    response = await post(server[1], f"x-request-timeout-seconds: {value}")

    assert response.status == 400
    assert "send a number of seconds above 0, such as 0.5" in response.body.decode()


async def test_an_unknown_priority_is_refused_with_those_there_are(server: tuple[HttpServer, int]) -> None:
    response = await post(server[1], "x-request-priority: urgent")

    assert response.status == 400
    assert "x-request-priority is 'urgent'; send interactive, the default, or batch" in response.body.decode()


async def test_a_time_that_no_replica_keeps_is_refused_at_once_and_for_good(
    server: tuple[HttpServer, int], model: ServedModel
) -> None:
    await post(server[1])
    started_s, rows = perf_counter(), model._batcher._net.rows

    response = await post(server[1], f"x-request-timeout-seconds: {PASS_S / 10}")

    assert response.status == 504
    assert json.loads(response.body)["error"]["code"] == "deadline_exceeded"
    assert "set a longer one" in response.body.decode()
    assert perf_counter() - started_s < PASS_S + 0.5
    assert model._batcher._net.rows == rows


@pytest.mark.parametrize("path", ["/predict", "/infer"])
async def test_callers_beyond_what_can_be_answered_in_time_get_429_with_when_to_come_back(
    server: tuple[HttpServer, int], model: ServedModel, path: str
) -> None:
    rows = model._batcher._net.rows
    infer = {"inputs": [{"name": model.manifest.inputs[0].name, "datatype": "FP32", "shape": [1, 1], "data": [1]}]}
    body = b'{"inputs": [[1]]}' if path == "/predict" else json.dumps(infer).encode()
    # 50 rows are 25 passes.
    header = f"x-request-timeout-seconds: {10 * PASS_S}"

    responses = await asyncio.gather(*(post(server[1], header, path=path, body=body) for _ in range(50)))

    by_status = {status: [each for each in responses if each.status == status] for status in (200, 429)}
    assert len(by_status[200]) + len(by_status[429]) == 50
    assert len(by_status[200]) >= 8
    assert len(by_status[429]) >= 25
    assert {each["retry-after"] for each in by_status[429]} <= {"1", "2"}
    assert b"try again in" in by_status[429][0].body
    assert model._batcher._net.rows - rows == len(by_status[200])


async def test_callers_that_leave_are_not_computed(server: tuple[HttpServer, int], model: ServedModel) -> None:
    rows, abandoned = model._batcher._net.rows, model.report_passes().abandoned_rows
    request = encode_request(
        "http://test",
        PATH + "/predict",
        b'{"inputs": [[1]]}',
        {"x-shoal-edge": SECRET, **TESTER_HEADER, "content-type": "application/json"},
    )
    writers = []
    for _ in range(60):
        _, writer = await asyncio.open_connection("127.0.0.1", server[1])
        writer.write(request)
        writers.append(writer)
    while server[0].ongoing < 60 and model._batcher._net.rows == rows:
        await asyncio.sleep(0.001)
    for writer in writers:
        writer.close()
    await asyncio.sleep(0.05)
    while server[0].ongoing or model.report_passes().queued_rows:
        await asyncio.sleep(0.01)

    # Callers are looked at every 0.25 s.
    assert model.report_passes().abandoned_rows - abandoned >= 10
    assert model._batcher._net.rows - rows + model.report_passes().abandoned_rows - abandoned == 60


async def test_interactive_requests_overtake_batch_requests(server: tuple[HttpServer, int]) -> None:
    order: list[str] = []

    async def call(priority: str) -> None:
        response = await post(server[1], f"x-request-priority: {priority}")
        assert response.status == 200
        order.append(priority)

    batch = [asyncio.create_task(call("batch")) for _ in range(12)]
    await asyncio.sleep(PASS_S)
    interactive = [asyncio.create_task(call("interactive")) for _ in range(6)]
    await asyncio.gather(*batch, *interactive)

    last_interactive = max(index for index, priority in enumerate(order) if priority == "interactive")
    assert order[last_interactive + 1 :].count("batch") >= 3


async def test_tritons_parameters_are_the_headers(server: tuple[HttpServer, int], model: ServedModel) -> None:
    def encode(**parameters: Any) -> bytes:
        tensor = {"name": model.manifest.inputs[0].name, "datatype": "FP32", "shape": [1, 1], "data": [1]}
        return json.dumps({"inputs": [tensor], "parameters": parameters}).encode()

    late = await post(server[1], path="/infer", body=encode(timeout=1000))
    batch, default = (model.oip_codec.decode_request(encode(priority=priority)).priority for priority in (2, 1))

    assert late.status == 504
    assert "timeout of 0.001 s" in late.body.decode()
    assert (batch, default) == (BATCH, INTERACTIVE)


async def test_batch_requests_leave_half_of_the_places_to_others() -> None:
    release = asyncio.Event()

    async def wait(request: Request) -> Response:
        await release.wait()
        return Response(200, b"")

    server = HttpServer(compose_http(wait, Limits(max_queue=4), SECRET, Authorization()))
    port = await server.start("127.0.0.1")
    calls = [asyncio.create_task(post(port, "x-request-priority: batch")) for _ in range(2)]
    while server.ongoing < 2:
        await asyncio.sleep(0.001)
    refused = await post(port, "x-request-priority: batch")
    calls += [asyncio.create_task(post(port)) for _ in range(2)]
    while server.ongoing < 4:
        await asyncio.sleep(0.001)
    refused_too = await post(port)
    release.set()

    assert [response.status for response in await asyncio.gather(*calls)] == [200] * 4
    assert [refused.status, refused_too.status] == [429, 429]
    assert "its limit for batch requests" in refused.body.decode()
    await server.drain(1)


def test_the_time_to_come_back_travels_in_the_body_to_a_caller_by_a_handle() -> None:
    error = parse_error(429, encode_call_error(QueueFull("full", 7), "r1"))

    assert isinstance(error, QueueFull)
    assert (error.headers, error.message, error.request_id) == (((b"retry-after", b"7"),), "full", "r1")
    assert isinstance(parse_error(429, b'{"error": "full"}'), ClientError)


async def test_open_loop_at_several_times_the_capacity(server: tuple[HttpServer, int], model: ServedModel) -> None:
    """The capacity is 2 rows per PASS_S; what is answered is answered in time, and nothing else is computed."""
    rows, timeout_s = model._batcher._net.rows, 0.4
    url = f"http://127.0.0.1:{server[1]}"
    headers = {
        "x-shoal-edge": SECRET,
        **TESTER_HEADER,
        "content-type": "application/json",
        "x-request-timeout-seconds": str(timeout_s),
    }
    request = encode_request(url, PATH + "/predict", b'{"inputs": [[1]]}', headers)
    with OpenLoop(url, schedule_arrivals([Step(1.5, 6 * 2 / PASS_S)], seed=1), request) as load:
        await asyncio.to_thread(load.wait)

    counts = load.outcomes.count()
    assert counts.keys() <= {"200", "429", "504"}
    assert counts["200"] + counts.get("504", 0) >= model._batcher._net.rows - rows >= counts["200"]
    assert counts.get("504", 0) < 0.2 * counts["200"]
    assert counts["200"] >= 0.5 * 1.5 * 2 / PASS_S
    # Without admission the last would wait for 7 s.
    assert load.outcomes.quantile_s(0.95) < 2 * timeout_s
