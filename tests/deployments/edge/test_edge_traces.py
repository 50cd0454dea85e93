"""Traces at the edge: W3C context in and out, the sampling decision, and spans of the edge's own from its log."""

import asyncio
import json
import time
from pathlib import Path

import pytest

from deployments.settings import EdgeSettings, ServingSettings, TracingSettings
from tests.deployments.edge.local_edge import run_edge
from tests.deployments.observability.otlp_receiver import get_attributes, run_receiver

pytestmark = pytest.mark.anyio
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PATH = "/v2/models/flowers/infer"


def build_settings(folder: Path, endpoint: str, ratio: float, *, access_log: bool = False) -> ServingSettings:
    tracing = TracingSettings(endpoint=endpoint, sample_ratio=ratio)
    return ServingSettings(home=folder, edge=EdgeSettings(access_log=access_log), tracing=tracing)


def parse_headers(response_json: dict[str, object]) -> dict[str, str]:
    return dict(response_json["headers"])  # type: ignore[call-overload, no-any-return]


async def test_a_sampled_caller_gets_an_edge_span_below_its_own_and_above_the_replicas(folder: Path) -> None:
    with run_receiver() as receiver:
        async with run_edge(folder, settings=build_settings(folder, receiver.endpoint, 0.0)) as edge:
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1", "x-request-id": "r1"}
            async with edge.open_http() as http:
                seen = parse_headers((await http.post(PATH, content=b"x", headers=headers)).json())
            spans = await asyncio.to_thread(receiver.wait_for, TRACE, "edge")

    version, trace, span_id, flags = seen["traceparent"].split("-")
    assert (version, trace, flags) == ("00", TRACE, "01")
    assert span_id != PARENT
    assert seen["tracestate"] == "vendor=1"
    span = spans["edge"]
    assert (span.span_id.hex(), span.parent_span_id.hex()) == (span_id, PARENT)
    assert 0 <= span.end_time_unix_nano - span.start_time_unix_nano < 5e9
    attributes = get_attributes(span)
    assert attributes["http.response.status_code"] == 200
    assert attributes["url.path"] == PATH
    assert attributes["shoal.request_id"] == "r1"


@pytest.mark.parametrize(
    ("traceparent", "ratio", "is_sampled"),
    [
        (f"00-{TRACE}-{PARENT}-00", 1.0, False),
        (None, 1.0, True),
        (None, 0.0, False),
        ("00-nonsense-01", 0.0, False),
        (f"00-{'0' * 32}-{PARENT}-01", 0.0, False),
        (f"ff-{TRACE}-{PARENT}-01", 0.0, False),
        (f"01-{TRACE}-{PARENT}-01-more", 0.0, True),
        ("00-nonsense-01", 1.0, True),
    ],
)
async def test_the_callers_flag_decides_and_the_ratio_where_there_is_none(
    folder: Path, traceparent: str | None, ratio: float, is_sampled: bool
) -> None:
    # Nothing listens there: an exporter that fails must not matter to a request.
    settings = build_settings(folder, "http://127.0.0.1:9/v1/traces", ratio)
    headers = {"traceparent": traceparent} if traceparent else {}
    async with run_edge(folder, settings=settings) as edge, edge.open_http() as http:
        seen = parse_headers((await http.post(PATH, headers=headers)).json())

    assert seen.get("traceparent", "").endswith("-01") is is_sampled
    if traceparent and not is_sampled and traceparent.startswith(f"00-{TRACE}"):
        assert seen["traceparent"] == traceparent
    if is_sampled and not traceparent:
        _, trace, span_id, _ = seen["traceparent"].split("-")
        assert len(trace), len(span_id) == (32, 16)
        assert trace != "0" * 32


async def test_no_more_traces_are_begun_in_a_second_than_the_setting_allows(folder: Path) -> None:
    tracing = TracingSettings(endpoint="http://127.0.0.1:9/v1/traces", sample_ratio=1.0, max_traces_per_s=3)
    carried = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    settings = ServingSettings(home=folder, tracing=tracing)
    async with run_edge(folder, settings=settings) as edge, edge.open_http() as http:
        started_s = time.monotonic()
        own = [parse_headers((await http.post(PATH)).json()) for _ in range(30)]
        callers = [parse_headers((await http.post(PATH, headers=carried)).json()) for _ in range(5)]
        seconds = time.monotonic() - started_s

    sampled = sum(each.get("traceparent", "").endswith("-01") for each in own)
    assert 3 <= sampled <= 3 * (1 + seconds) + 1
    assert sampled < 30
    assert all(each["traceparent"].startswith(f"00-{TRACE}") for each in callers)


async def test_lines_of_traced_requests_are_logged_only_where_the_access_log_is_on(folder: Path) -> None:
    settings = build_settings(folder, "http://127.0.0.1:9/v1/traces", 1.0, access_log=True)
    async with run_edge(folder, settings=settings) as edge:
        async with edge.open_http() as http:
            await http.post(PATH)
        lines = [json.loads(line) for line in (await edge.read_log()).splitlines() if line.startswith("{")]
    assert [len(line["trace_id"]) for line in lines] == [32]

    quiet = folder / "quiet"
    quiet.mkdir()
    async with run_edge(quiet, settings=build_settings(quiet, "http://127.0.0.1:9/v1/traces", 1.0)) as edge:
        async with edge.open_http() as http:
            await http.post(PATH)
        assert "trace_id" not in await edge.read_log()


async def test_without_tracing_the_edge_leaves_a_context_as_it_is(folder: Path) -> None:
    async with run_edge(folder) as edge, edge.open_http() as http:
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}
        seen = parse_headers((await http.post(PATH, headers=headers)).json())
    assert (seen["traceparent"], seen["tracestate"]) == (headers["traceparent"], headers["tracestate"])
