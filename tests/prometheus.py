"""A real Prometheus of the tests' own, in a new folder and on a free port; queries as dashboards have them."""

import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.conftest import wait_until

DASHBOARDS = Path(__file__).parents[1] / "deployments" / "observability" / "dashboards"
ALERTS = DASHBOARDS.with_name("alerts.yaml")
_DURATION = re.compile(r"\[\d+m\]")


def find_program(name: str) -> str:
    """Find a program of Prometheus, or skip the test."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"there is no {name} on this machine (Debian: apt-get install prometheus)")
    return path


@dataclass
class Prometheus:
    """One that runs."""

    url: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant query."""
        response = httpx.get(f"{self.url}/api/v1/query", params={"query": expression}, trust_env=False).json()
        assert response["status"] == "success", response
        result: list[dict[str, Any]] = response["data"]["result"]
        return result

    def list_targets(self) -> list[dict[str, Any]]:
        """The targets that are scraped."""
        response = httpx.get(f"{self.url}/api/v1/targets", trust_env=False).json()
        targets: list[dict[str, Any]] = response["data"]["activeTargets"]
        return targets

    def list_firing(self) -> set[str]:
        """The names of the alerts that fire."""
        response = httpx.get(f"{self.url}/api/v1/alerts", trust_env=False).json()
        return {each["labels"]["alertname"] for each in response["data"]["alerts"] if each["state"] == "firing"}

    def list_rules(self) -> list[dict[str, Any]]:
        """Every rule, with its health."""
        response = httpx.get(f"{self.url}/api/v1/rules", trust_env=False).json()
        return [rule for group in response["data"]["groups"] for rule in group["rules"]]


@contextlib.contextmanager
def run_prometheus(
    folder: Path, adapt_rule: Callable[[str, str], str] = lambda name, expr: expr
) -> Iterator[Prometheus]:
    """Run Prometheus on what `shoal monitoring` wrote, scraping every two seconds, with windows and waits of seconds.

    Args:
        folder: of prometheus.yml and alerts.yaml; they are changed.
        adapt_rule: from an alert's name and expression to the expression that is used.
    """
    program = find_program("prometheus")
    config = yaml.safe_load((folder / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "2s", "evaluation_interval": "1s", "scrape_timeout": "2s"}
    config["scrape_configs"][0]["http_sd_configs"][0]["refresh_interval"] = "1s"
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    rules = yaml.safe_load((folder / "alerts.yaml").read_text())
    for rule in rules["groups"][0]["rules"]:
        rule["for"] = "1s"
        rule["expr"] = adapt_rule(rule["alert"], _DURATION.sub("[10s]", rule["expr"]))
    (folder / "alerts.yaml").write_text(yaml.safe_dump(rules))
    port = find_port()
    options = [f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            [program, f"--config.file={folder / 'prometheus.yml'}", *options], stdout=log, stderr=log
        )
    prometheus = Prometheus(f"http://127.0.0.1:{port}")
    try:
        assert wait_until(lambda: _is_ready(prometheus.url), 20), (folder / "prometheus.log").read_text()[-2000:]
        yield prometheus
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def find_port() -> int:
    """A free port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def list_panels() -> list[tuple[str, str]]:
    """Every query of every dashboard: its panel's name, and PromQL with the variables filled in."""
    panels = []
    for file in sorted(DASHBOARDS.glob("*.json")):
        dashboard = json.loads(file.read_text())
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                expression = target["expr"].replace("$__rate_interval", "10s").replace("$model", ".*")
                panels.append((f"{dashboard['title']} / {panel['title']}", expression))
    return panels
