"""Traces inside a replica: spans of a request, its queue and its pass, of a pipeline's nodes; nothing where off."""

import asyncio
import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from deployments.access.authorization import Authorization
from deployments.errors import Unavailable
from deployments.models.served_model import ServedModel
from deployments.observability.observation import Observation
from deployments.observability.tracing import ReplicaTracer, build_tracer
from deployments.server.edge_check import EdgeCheck
from deployments.server.handle_api import HandleApi
from deployments.server.middleware import compose_http
from deployments.server.request import Request, Response
from deployments.server.request_limits import RequestLimits
from deployments.server.routes import ModelRoutes
from deployments.settings import Limits, TracingSettings
from deployments.specs.model_deployment import ModelEndpoint
from tests.deployments.callers import TESTER_HEADER
from tests.deployments.observability.otlp_receiver import OtlpReceiver, get_attributes, run_receiver
from tests.deployments.server.apps import open_client
from training.bundle.verify import verify_bundle

pytestmark = pytest.mark.anyio
SECRET = "k"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{PARENT}-01"
PATH = "/v2/models/flowers/predict"
BODY = {"inputs": [[1, 2, 3, 4], [4, 3, 2, 1]]}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with run_receiver() as running:
        yield running


@pytest.fixture
def tracer(receiver: OtlpReceiver) -> Iterator[ReplicaTracer]:
    built = build_tracer(TracingSettings(endpoint=receiver.endpoint), "flowers", 3, "r1")
    assert built is not None
    yield built
    built.close()


@pytest.fixture
def model(table_bundle: Path, tmp_path: Path, tracer: ReplicaTracer) -> ServedModel:
    digest = verify_bundle(table_bundle).digest
    served = ServedModel(ModelEndpoint(name="flowers", version=3, digest=digest, uri=str(table_bundle)), tmp_path)
    served.enable_tracing(tracer)
    return served


async def test_a_sampled_request_has_spans_of_server_queue_and_pass(
    model: ServedModel, tracer: ReplicaTracer, receiver: OtlpReceiver
) -> None:
    app = compose_http(ModelRoutes(model), Limits(), SECRET, Authorization(), Observation(tracer=tracer))
    async with open_client(app, headers={"x-shoal-edge": SECRET, **TESTER_HEADER, "traceparent": SAMPLED}) as client:
        assert (await client.post(PATH, json=BODY)).status_code == 200
        assert (await client.get(PATH)).status_code == 405
    tracer.close()

    servers = [span for span in receiver.spans if span.name == "server"]
    server, refused = sorted(servers, key=lambda span: span.start_time_unix_nano)
    spans = receiver.of_trace(TRACE) | {"server": server}
    assert {span.name for span in receiver.spans} == {"server", "queue", "pass"}
    assert server.parent_span_id.hex() == PARENT
    assert {spans[name].parent_span_id for name in ("queue", "pass")} == {server.span_id}
    queue, forward = spans["queue"], spans["pass"]
    times = [server.start_time_unix_nano, queue.start_time_unix_nano, queue.end_time_unix_nano]
    times += [forward.start_time_unix_nano, forward.end_time_unix_nano, server.end_time_unix_nano]
    # Wall clock and perf_counter are read one after the other.
    assert all(before <= after + 100_000 for before, after in pairwise(times)), times
    assert get_attributes(forward) == {"shoal.rows": 2, "shoal.passes": 1, "shoal.pass_rows": 2}
    attributes = get_attributes(server)
    assert (attributes["http.response.status_code"], attributes["url.path"]) == (200, PATH)
    assert get_attributes(refused)["http.response.status_code"] == 405
    assert receiver.resources[0]["shoal.version"] == "3"
    assert "inputs" not in str(receiver.spans)


@pytest.mark.parametrize("traceparent", ["", f"00-{TRACE}-{PARENT}-00", "nonsense"])
async def test_what_the_edge_has_not_sampled_has_no_span(
    model: ServedModel, tracer: ReplicaTracer, receiver: OtlpReceiver, traceparent: str
) -> None:
    app = compose_http(ModelRoutes(model), Limits(), SECRET, Authorization(), Observation(tracer=tracer))
    async with open_client(
        app, headers={"x-shoal-edge": SECRET, **TESTER_HEADER, "traceparent": traceparent}
    ) as client:
        assert (await client.post(PATH, json=BODY)).status_code == 200
    tracer.close()
    assert receiver.spans == []


async def test_a_refused_request_and_one_whose_caller_left_have_spans_that_say_so(
    tracer: ReplicaTracer, receiver: OtlpReceiver
) -> None:
    has_begun = asyncio.Event()

    async def wait(request: Request) -> Response | None:
        has_begun.set()
        await request.wait_closed()
        return None

    app = compose_http(wait, Limits(), SECRET, Authorization(), Observation(tracer=tracer))
    async with open_client(app, headers={"traceparent": SAMPLED}) as client:
        assert (await client.get("/", headers={"x-shoal-edge": "wrong"})).status_code == 403
        call = asyncio.create_task(client.get("/", headers={"x-shoal-edge": SECRET}))
        await has_begun.wait()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await asyncio.sleep(0.05)
    tracer.close()

    statuses = [get_attributes(span)["http.response.status_code"] for span in receiver.spans]
    assert sorted(statuses) == [403, 499]


async def test_a_call_by_a_handle_goes_on_with_its_callers_trace(
    model: ServedModel, tracer: ReplicaTracer, receiver: OtlpReceiver
) -> None:
    api = HandleApi()
    api.servable, api.tracer = model, tracer
    body = json.dumps(BODY).encode()
    with tracer.trace_call({"traceparent": SAMPLED}), tracer.trace_node("root.mood", "flowers") as node:
        assert node is not None
        context = tracer.inject_headers()
        assert re.fullmatch(f"00-{TRACE}-[0-9a-f]{{16}}-01", context["trace"]["traceparent"])
    status, *_ = await asyncio.create_task(api.predict(body, "application/json", "r1", **context))
    await api.predict(b"{", "application/json", None)
    tracer.close()

    assert status == 200
    node_span = receiver.of_trace(TRACE)["node root.mood"]
    assert get_attributes(node_span) == {"shoal.node": "root.mood", "shoal.model": "flowers"}
    called = [span for span in receiver.spans if span.parent_span_id == node_span.span_id]
    assert [span.name for span in called] == ["server"]
    assert receiver.of_trace(TRACE)["pass"].parent_span_id == called[0].span_id
    assert api.call_statistics.responses == {200: 1, 400: 1}
    assert tracer.inject_headers() == {}


async def test_an_error_marks_its_span(tracer: ReplicaTracer, receiver: OtlpReceiver) -> None:
    with pytest.raises(Unavailable), tracer.trace_call({"traceparent": SAMPLED}):
        raise Unavailable("no replica")
    tracer.close()
    assert receiver.of_trace(TRACE)["server"].status.code == 2


def test_without_an_endpoint_there_is_no_tracer_and_no_layer(model: ServedModel) -> None:
    assert build_tracer(TracingSettings(), "flowers", 1, "r") is None
    routes = ModelRoutes(model)
    app = compose_http(routes, Limits(), SECRET, Authorization(), Observation())
    assert app.handler is routes
    assert [type(layer) for layer in app.layers] == [EdgeCheck, Authorization, RequestLimits]


@pytest.mark.parametrize("endpoint", ["localhost:4318", "ftp://x", "http://"])
def test_an_endpoint_is_a_url(endpoint: str) -> None:
    with pytest.raises(ValueError, match="endpoint"):
        TracingSettings(endpoint=endpoint)
