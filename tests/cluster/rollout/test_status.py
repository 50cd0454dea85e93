"""Status where the control application does not answer; tests/e2e has it where it does."""

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from rich.live import Live

from cluster.cli.status import format_latency, list_warnings, make_status_table, make_watch_view
from cluster.cli.terminal import print_table
from cluster.local import secrets
from cluster.local.ports import Ports
from cluster.local.running_cluster import Cluster
from cluster.rollout.status import ClusterStatus, StatusClient
from cluster.settings import Settings
from deployments.control.summary import (
    DeploymentSummary,
    VersionSummary,
    find_error,
    summarize_deployments,
    summarize_versions,
)
from deployments.edge.state import Member, Route
from deployments.rollout.canary import Canary, CanarySpec, CanaryState
from deployments.scaling.report import LatencyHistogram, ReplicaReport
from deployments.scaling.traffic import ReportHistory, Traffic
from deployments.settings import ServingSettings
from deployments.state.revisions import Origin
from deployments.state.store import DeploymentStore
from tests.cluster.rollout.dashboard import Dashboard
from tests.cluster.rollout.test_deploy import make_deployment
from training.errors import ServiceError
from training.registry.process_identity import ProcessIdentity


def test_without_the_control_application_all_but_the_traffic_comes_from_serve(tmp_path: Path, cluster: Cluster) -> None:
    for name in (secrets.RAY_TOKEN, secrets.ADMIN_KEY):
        secrets.ensure_secret(tmp_path, name)
    settings = Settings(home=tmp_path)
    store, cluster = DeploymentStore.open(settings), replace(cluster, http_port=Ports().pick_free())
    store.end_change(store.begin_change({"m": make_deployment(1)}, "deploy", Origin("ann@machine")), "succeeded")
    owner = str(ProcessIdentity.current())
    store.begin_change({"n": make_deployment(2, name="n")}, "deploy", Origin("bob@machine", owner=owner))
    message = "Deployment 'replica' has 1 replicas that have taken more than 30s to be scheduled."
    Dashboard.applications = {
        "m": {
            "status": "RUNNING",
            "deployments": {
                "replica": {
                    "target_num_replicas": 2,
                    "message": "",
                    "replicas": [{"state": "RUNNING"}, {"state": "STARTING"}],
                }
            },
        },
        "n": {"status": "DEPLOYING", "deployments": {"replica": {"target_num_replicas": 1, "message": message}}},
    }

    with StatusClient(settings, cluster) as client:
        m, n = (current := client.fetch()).deployments

    assert current.warning == "the control application does not answer (ConnectError): traffic is not known"
    assert (m.revision, m.version, m.replicas, m.target_replicas, m.traffic) == (1, 1, 1, 2, None)
    assert m.reason == "replicas: 1 starting"
    assert (n.replicas, n.versions) == (0, [])
    assert n.reason == f"being deployed (revision 1 of bob@machine); {message}"
    gone = replace(cluster, dashboard_port=Ports().pick_free())
    with (
        StatusClient(settings, gone) as client,
        pytest.raises(ServiceError, match=r"neither the control application \(ConnectError\) nor Ray Serve's API"),
    ):
        client.fetch()


def test_a_row_shows_versions_with_their_weights_and_the_traffic(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = DeploymentSummary(
        name="digits",
        kind="model",
        revision=7,
        version=3,
        variant="fp32",
        versions=[
            VersionSummary(version=version, variant="fp32", weight=weight, replicas=1)
            for version, weight in ((3, 5), (2, 95))
        ],
        status="UNHEALTHY",
        reason="ValueError: no memory",
        replicas=2,
        target_replicas=3,
        min_replicas=1,
        max_replicas=4,
        traffic=Traffic(requests_per_s=12.34, errors_per_s=0.5, p50_s=0.00123, p99_s=1.5, ongoing=3, queued_rows=9),
    )
    current = ClusterStatus([summary], "")

    print_table(make_status_table(current))

    *_, row = capsys.readouterr().out.splitlines()
    assert " ".join(row.split()) == "digits 7 3 (5%), 2 (95%) UNHEALTHY 2/3 1-4 fp32 12.3 1.23 ms 1.50 s 0.5 9"
    assert list_warnings(current) == ["digits does not run: ValueError: no memory"]
    assert format_latency(None) == ""
    assert draw(cluster, current, 200) == [
        f"cluster: {cluster.url}  grpc: {cluster.grpc_address}  dashboard: {cluster.dashboard_url}",
        "model   revision  version          status     replicas  bounds  variant  req/s  p50      p99     err/s  queue",
        "digits  7         3 (5%), 2 (95%)  UNHEALTHY  2/3       1-4     fp32     12.3   1.23 ms  1.50 s  0.5    9",
        "digits does not run: ValueError: no memory",
    ]
    narrow = draw(cluster, current, 80)
    assert narrow[0] == f"cluster: {cluster.url}"
    assert narrow[3:] == [
        "model   version          status     replicas  req/s  p99     err/s  queue",
        "digits  3 (5%), 2 (95%)  UNHEALTHY  2/3       12.3   1.50 s  0.5    9",
        "digits does not run: ValueError: no memory",
    ]
    assert "…" not in "".join(line for width in (40, 60, 80, 100) for line in draw(cluster, current, width))


def draw(cluster: Cluster, current: ClusterStatus, width: int) -> list[str]:
    """The lines that a terminal which is watched shows."""
    terminal = Console(width=width, soft_wrap=True, force_terminal=True, no_color=True, file=io.StringIO())
    with terminal.capture() as capture, Live(console=terminal, auto_refresh=False) as live:
        live.update(make_watch_view(cluster, lambda: current, width), refresh=True)
    plain = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", capture.get())
    lines = [line.rstrip() for line in plain.splitlines() if line.strip()]
    # Its end draws it once more.
    return lines[len(lines) // 2 :]


def test_a_canary_has_its_share_of_the_requests_and_the_other_replicas_the_rest() -> None:
    stable = [Member(f"s{number}", Route("m", 30.0), "a", 1 + (number > 1), "fp32") for number in range(3)]
    new = [Member("c", Route("m.canary", 30.0), "a", 3, "int8")]
    spec = CanarySpec(deployment=make_deployment(3), stable_version=1, steps=(10, 100))
    state = CanaryState(phase="running")
    canary = Canary(id=1, spec=spec, state=state, requested="", started_s=0, ended_s=None)

    versions = summarize_versions(stable, canary, new)
    assert [(each.version, each.weight, each.replicas) for each in versions] == [(3, 10, 1), (2, 30, 1), (1, 60, 2)]
    # While it is promoted, its model has some of it too.
    promoting = canary.model_copy(update={"state": CanaryState(phase="promoting")})
    stable[0] = Member("s0", Route("m", 30.0), "a", 3, "int8")
    versions = summarize_versions(stable, promoting, new)
    assert [(each.version, each.weight, each.replicas) for each in versions] == [(3, 40, 2), (2, 30, 1), (1, 30, 1)]
    stable[0] = Member("s0", Route("m", 30.0), "a", 1, "fp32")
    # Before it has a replica, and after it, the others have all.
    assert [each.weight for each in summarize_versions(stable, canary)] == [33.33, 66.67]


def test_the_status_counts_what_a_canary_answers_for_its_model(tmp_path: Path) -> None:
    store = DeploymentStore.open(ServingSettings(home=tmp_path))
    store.end_change(store.begin_change({"m": make_deployment(1)}, "deploy", Origin("ann@machine")), "succeeded")
    spec = CanarySpec(deployment=make_deployment(3), stable_version=1, steps=(10, 100))
    canary = Canary(id=1, spec=spec, state=CanaryState(phase="running"), requested="", started_s=0, ended_s=None)
    history = ReportHistory()
    for second in (0.0, 10.0):
        history.add(second, ReplicaReport(second, 0, {200: int(second) * 5}, tuple(LatencyHistogram().counts)))
    windows = [
        (Member(name, Route(route, 30.0), "a", version, "fp32"), history.get_window())
        for name, route, version in (("s", "m", 1), ("c", "m.canary", 3), ("old", "m.canary", 2))
    ]

    (summary,) = summarize_deployments(store, {}, windows, [canary])

    assert [(each.version, each.weight) for each in summary.versions] == [(3, 10), (1, 90)]
    assert summary.traffic is not None
    assert summary.traffic.requests_per_s == pytest.approx(10, rel=0.2)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["Traceback", "protobuf.VersionError: old", "pid: 7", "ip: 127.0.0.1"], "protobuf.VersionError: old"),
        (["a", "training.errors.UserError: m (fp32) cannot answer within 1 ms"], "m (fp32) cannot answer within 1 ms"),
        (["ValueError: first", "  raise", "KeyError: 'x'"], "KeyError: 'x'"),
        (["SystemExit"], "SystemExit"),
        (["it waits"], "it waits"),
        ([], "no reason given"),
    ],
)  # fmt: skip
def test_a_failure_is_told_by_its_error_and_not_by_what_follows_it(lines: list[str], message: str) -> None:
    assert find_error(lines) == message
