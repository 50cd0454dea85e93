"""What a replica counts of calls by handles: for whom they are, by the id of the request that they are a part of."""

import json
from pathlib import Path

import pytest

from deployments.access.usage.call_event import CallEvent, Kind
from deployments.access.usage.request_usage import RequestUsage
from deployments.models.served_model import ServedModel
from deployments.server.handle_api import HandleApi
from deployments.specs.model_deployment import ModelEndpoint
from tests.deployments.callers import TESTER
from training.bundle.verify import verify_bundle

TENSOR = {"name": "input", "shape": [2, 4], "datatype": "FP32", "data": [0.5] * 8}
ROW = {"length": 1, "width": 1, "height": 1, "weight": 1}

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Replica(HandleApi):
    """A replica without Ray, which keeps what it counts."""

    def __init__(self, model: ServedModel) -> None:
        self.servable, self.usage_sink = model, self
        self.written: list[tuple[RequestUsage, int]] = []

    def append(self, usage: RequestUsage, status: int) -> None:
        self.written.append((usage, status))


@pytest.fixture
def replica(table_bundle: Path, tmp_path: Path) -> Replica:
    digest = verify_bundle(table_bundle).digest
    return Replica(
        ServedModel(ModelEndpoint(name="flowers", version=3, digest=digest, uri=str(table_bundle)), tmp_path)
    )


async def test_a_call_is_counted_for_its_caller_under_its_event(replica: Replica) -> None:
    event = CallEvent(b"e" * 16, Kind.NODE, b"r1")
    body, rows = json.dumps({"inputs": [TENSOR]}).encode(), json.dumps({"inputs": [ROW] * 3}).encode()

    inferred = await replica.infer("", body, None, caller=TESTER, event=event)
    predicted = await replica.predict(rows, "application/json", "r2", caller=TESTER, event=event)

    first, second = (usage for usage, _ in replica.written)
    assert [status for _, status in replica.written] == [200, 200]
    assert (first.rows, first.request_id, first.bytes_out) == (2, b"r1", len(inferred[1]))
    assert (second.rows, second.request_id, second.bytes_out) == (3, b"r2", len(predicted[1]))
    for usage in (first, second):
        assert usage.event.id == event.id
        assert usage.event.kind is Kind.NODE
        assert usage.caller.name == "default/tester"
        assert usage.compute_s > 0


async def test_a_call_that_is_refused_or_has_no_event_is_no_answer_of_a_caller(replica: Replica) -> None:
    await replica.infer("", b"{", None, caller=TESTER, event=CallEvent(b"e" * 16))
    await replica.predict(json.dumps({"inputs": [ROW]}).encode(), "application/json", None)
    events = [event async for event in replica.stream(b"{}", "application/json", None, event=CallEvent(b"f" * 16))]

    assert events[0][0] == 406
    assert [status for _, status in replica.written] == [400, 200, 406]
    assert replica.written[1][0].event.kind is Kind.INTERNAL
