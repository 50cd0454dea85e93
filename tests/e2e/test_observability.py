"""Faults on a real cluster: each alert that a fault can be made for fires in a real Prometheus, and clears; traces."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from cluster.local import processes
from cluster.local.running_cluster import Cluster, cluster_id, require_cluster, temp_dir
from cluster.rollout.deploy import deploy_pipeline
from cluster.settings import Settings
from deployments.pipelines import ModelNode, Pipeline, Sequence
from deployments.settings import Limits
from tests.conftest import ShoalCli, make_shoal_cli, open_http, publish_and_deploy, wait_until
from tests.deployments.observability.otlp_receiver import OtlpReceiver, get_attributes, run_receiver
from tests.e2e.load import Load
from tests.prometheus import run_prometheus
from tests.small_bundles import save_table

pytestmark = pytest.mark.soak
# What a small model on a busy machine reaches.
LOW_THRESHOLDS = {"ShoalLatency": ("> 1", "> 0.0001"), "ShoalQueueWait": ("> 0.5", "> 0.00001")}
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def lower_threshold(name: str, expression: str) -> str:
    before, after = LOW_THRESHOLDS.get(name, ("", ""))
    return expression.replace(before, after) if before else expression


def find_process(settings: Settings, *words: str) -> psutil.Process | None:
    for process in processes.find_owned(cluster_id(settings.home), temp_dir(settings.home)):
        with contextlib.suppress(psutil.Error):
            command = " ".join(process.cmdline())
            if all(word in command for word in words):
                return process
    return None


@contextlib.contextmanager
def repeat(action: Callable[[], object]) -> Iterator[None]:
    """Repeat an action in a thread."""
    end = threading.Event()

    def run() -> None:
        while not end.is_set():
            with contextlib.suppress(httpx.HTTPError):
                action()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def test_each_alert_fires_with_its_fault_on_a_cluster_and_clears(
    shoal: ShoalCli, serving_cluster: Cluster, settings: Settings, http: httpx.Client, tmp_path: Path
) -> None:
    # One request at a time: what comes beside it is refused.
    save_table(tmp_path / "narrow", "narrow")
    narrow = settings.model_copy(update={"limits": Limits(max_queue=1)})
    publish_and_deploy(narrow, serving_cluster, tmp_path / "narrow")
    assert shoal("monitoring", str(tmp_path / "monitoring")).returncode == 0
    tensor = {"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}
    late = {"inputs": [tensor], "parameters": {"timeout": 1}}

    with run_prometheus(tmp_path / "monitoring", lower_threshold) as prometheus:

        def assert_fires(*names: str, timeout_s: float = 60) -> None:
            assert wait_until(lambda: set(names) <= prometheus.list_firing(), timeout_s), (
                names,
                prometheus.list_firing(),
            )

        with Load(settings, serving_cluster, "flowers"):
            assert_fires("ShoalLatency", "ShoalQueueWait")
            with repeat(lambda: http.post("/v2/models/flowers/infer", json=late)):
                assert_fires("ShoalErrorRate", "ShoalEdgeErrorRate")
            with Load(settings, serving_cluster, "narrow", callers=8):
                assert_fires("ShoalRequestsRefused")
            deadline = time.monotonic() + 120
            seen: set[str] = set()
            while not {"ShoalModelUnavailable", "ShoalReplicasReplaced"} <= seen and time.monotonic() < deadline:
                replica = find_process(settings, "ray::ServeReplica:flowers:")
                if replica:
                    replica.kill()
                wait_until(lambda: "ShoalModelUnavailable" in prometheus.list_firing(), 8)
                seen |= prometheus.list_firing()
            assert {"ShoalModelUnavailable", "ShoalReplicasReplaced"} <= seen
            haproxy = find_process(settings, "bin/haproxy")
            assert haproxy is not None
            haproxy.suspend()
            try:
                assert_fires("ShoalTargetDown", timeout_s=30)
            finally:
                haproxy.resume()
        wait_until(lambda: not prometheus.list_firing(), 120)
        assert prometheus.list_firing() == set()


@pytest.fixture
def traced_cluster(tmp_path: Path) -> Iterator[tuple[Settings, Cluster, OtlpReceiver]]:
    """A cluster of its own that traces what its callers sample."""
    home = tmp_path / "home"
    with run_receiver() as receiver:
        environment = {
            "SHOAL_TRACING__ENDPOINT": receiver.endpoint,
            "SHOAL_TRACING__SAMPLE_RATIO": "0",
            "SHOAL_LOG_FORMAT": "json",
        }
        run = make_shoal_cli(home)
        settings = Settings(home=home, http_port=0, grpc_port=0, dashboard_port=0, log_format="json")
        try:
            result = run("up", env=environment)
            assert result.returncode == 0, result.stderr
            yield settings, require_cluster(settings), receiver
        finally:
            run("down")


def test_a_request_is_one_trace_from_the_edge_to_the_pass_of_a_pipelines_node(
    traced_cluster: tuple[Settings, Cluster, OtlpReceiver], tmp_path: Path
) -> None:
    settings, cluster, receiver = traced_cluster
    save_table(tmp_path / "table")
    publish_and_deploy(settings, cluster, tmp_path / "table")
    pipeline = Pipeline(name="twice", root=Sequence(nodes=(ModelNode(model="flowers"),)))
    deploy_pipeline(settings, cluster, pipeline, lambda status: None)
    row = dict(zip(("length", "width", "height", "weight"), (1, 2, 3, 4), strict=True))
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "r1"}
    with open_http(settings, cluster) as http:
        assert http.post("/v2/models/flowers/predict", json={"inputs": [row]}).status_code == 200  # not sampled
        response = http.post("/v2/models/twice/predict", json={"inputs": [row]}, headers=headers)
        assert response.status_code == 200, response.text

    receiver.wait_for(TRACE, "edge", "queue", "pass")
    assert wait_until(lambda: len(receiver.spans) == 6, 20)
    spans = receiver.spans
    by_id = {span.span_id: span for span in spans}
    (forward,) = [span for span in spans if span.name == "pass"]
    names, span = [forward.name], forward
    while span.parent_span_id in by_id:
        span = by_id[span.parent_span_id]
        names.append(span.name.split(" ")[0])
    assert names == ["pass", "server", "node", "server", "edge"]
    assert span.parent_span_id.hex() == PARENT
    assert get_attributes(span)["shoal.request_id"] == "r1"
    models = {resource.get("shoal.model") for resource in receiver.resources}
    assert models == {"shoal.edge", "twice", "flowers"}
