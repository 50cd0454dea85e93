"""Alerts: each fires where its fault lasts, and is over when the fault is; by Prometheus' own `promtool test rules`."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.prometheus import ALERTS, DASHBOARDS, find_program, list_panels

RULES = {rule["alert"]: rule for rule in yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]}
OK, FAULT, END = 20, 40, 70
"""Minutes: of the fault's begin and end, and of the whole series."""

LATENCY = 'shoal_request_duration_seconds_bucket{model="m",version="1",source="edge",le="%s"}'
WAIT = 'shoal_queue_wait_seconds_bucket{model="m",version="1",le="%s"}'
INFO = 'shoal_replica_info{model="m",version="1",replica="%d"}'
REQUESTS = 'shoal_requests_total{model="m",version="1",status="%s"}'
EDGE = 'haproxy_frontend_http_responses_total{instance="i",proxy="http",code="%s"}'


def gauge(good: float, bad: float) -> str:
    """Values of a gauge that is bad from OK to FAULT."""
    return f"{good}x{OK - 1} {bad}x{FAULT - OK - 1} {good}x{END - FAULT}"


def counter(good: int, bad: int) -> str:
    """Values of a counter that grows by so much a minute."""
    values, total = [], 0
    for minute in range(END):
        total += bad if OK <= minute < FAULT else good
        values.append(str(total))
    return " ".join(values)


def slow_down(series: str) -> dict[str, str]:
    """A histogram whose values are 0.05 s, and 2 s during the fault."""
    every = counter(1000, 1000)
    return {series % "0.05": counter(1000, 0), series % "2": every, series % "+Inf": every}


SERIES: dict[str, dict[str, str]] = {
    "ShoalTargetDown": {'up{job="shoal",node="n"}': gauge(1, 0)},
    "ShoalMetricsIncomplete": {'shoal_scrape_part_up{part="ray"}': gauge(1, 0)},
    "ShoalModelUnavailable": {
        'haproxy_backend_active_servers{instance="i",proxy="model.m"}': gauge(1, 0),
        'haproxy_backend_http_requests_total{instance="i",proxy="model.m"}': counter(60, 60),
    },
    "ShoalErrorRate": {REQUESTS % "200": counter(1000, 900), REQUESTS % "500": counter(0, 100)},
    "ShoalEdgeErrorRate": {EDGE % "2xx": counter(1000, 900), EDGE % "5xx": counter(0, 100)},
    "ShoalLatency": slow_down(LATENCY),
    "ShoalQueueWait": slow_down(WAIT),
    "ShoalRequestsRefused": {REQUESTS % "200": counter(1000, 900), REQUESTS % "429": counter(0, 100)},
    "ShoalReplicasReplaced": {
        **{INFO % number: f"_x{OK + 3 * number - 1} 1x2 _x{END}" for number in range(6)},
        INFO % 99: f"1x{END + 40}",
    },
    "ShoalNodeMemory": {"ray_node_mem_used": gauge(50, 95), "ray_node_mem_total": gauge(100, 100)},
    "ShoalNodeDisk": {"ray_node_disk_utilization_percentage": gauge(50, 95)},
}  # fmt: skip


def build_rule_test(name: str) -> dict[str, Any]:
    """A file of `promtool test rules`: quiet before, firing at the end of the fault, quiet long after it."""
    return {
        "input_series": [{"series": series, "values": values} for series, values in SERIES[name].items()],
        "interval": "1m",
        "promql_expr_test": [
            {"expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}}) or vector(0)',
             "eval_time": f"{minute}m", "exp_samples": [{"labels": "{}", "value": int(fires)}]}
            for minute, fires in ((OK - 1, False), (FAULT - 2, True), (END + 30, False))
        ],
    }  # fmt: skip


def test_every_alert_has_a_fault_here() -> None:
    assert SERIES.keys() == RULES.keys()


def test_each_alert_fires_with_its_fault_and_clears_after_it(tmp_path: Path) -> None:
    promtool = find_program("promtool")
    for name in SERIES:
        file = tmp_path / f"{name}.yaml"
        file.write_text(
            yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": [build_rule_test(name)]})
        )
    done = subprocess.run(
        [promtool, "test", "rules", *map(str, sorted(tmp_path.glob("*.yaml")))], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_idle_model_that_is_scaled_to_zero_is_no_fault(tmp_path: Path) -> None:
    promtool = find_program("promtool")
    series = {
        'haproxy_backend_active_servers{instance="i",proxy="model.m"}': gauge(1, 0),
        'haproxy_backend_http_requests_total{instance="i",proxy="model.m"}': counter(60, 0),
    }
    check = {
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "interval": "1m",
        "alert_rule_test": [
            {"eval_time": f"{FAULT - 2}m", "alertname": "ShoalModelUnavailable", "exp_alerts": []},
        ],
    }
    file = tmp_path / "idle.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": [check]}))
    done = subprocess.run([promtool, "test", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", RULES)
def test_an_alert_says_what_is_wrong_and_how_grave_it_is(name: str) -> None:
    assert RULES[name]["labels"]["severity"] in ("critical", "warning")
    assert RULES[name]["annotations"]["summary"].endswith(".")
    assert name.startswith("Shoal")


def test_dashboards_are_documents_that_grafana_imports() -> None:
    files = sorted(DASHBOARDS.glob("*.json"))
    assert [file.stem for file in files] == ["shoal-edge", "shoal-models", "shoal-passes"]
    for file in files:
        dashboard = json.loads(file.read_text())
        assert (dashboard["uid"], dashboard["schemaVersion"]) == (file.stem, 39)
        ids = [panel["id"] for panel in dashboard["panels"]]
        assert len(ids) == len(set(ids))
    assert len(list_panels()) >= 29
