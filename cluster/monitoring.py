"""Monitoring: Prometheus' configuration for a cluster, alert rules, and Grafana's dashboards, as files."""

import shutil
from pathlib import Path

import yaml

from cluster.local import secrets
from cluster.local.running_cluster import Cluster
from cluster.settings import Settings
from deployments import observability

JOB, SCRAPE_INTERVAL = "shoal", "15s"
CONFIG_FILE, ALERTS_FILE, DASHBOARDS_FOLDER = "prometheus.yml", "alerts.yaml", "dashboards"
TARGETS_PATH = "/metrics/targets"


def write_monitoring(settings: Settings, cluster: Cluster, folder: Path) -> list[Path]:
    """Write what Prometheus and Grafana need to watch a cluster.

    Args:
        settings: of the cluster.
        cluster: that is scraped.
        folder: of the files; it is made if it is not there.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(observability.__file__).parent
    config = folder / CONFIG_FILE
    config.write_text(yaml.safe_dump(_build_config(settings, cluster), sort_keys=False))
    alerts = Path(shutil.copy(source / ALERTS_FILE, folder))
    dashboards = shutil.copytree(source / DASHBOARDS_FOLDER, folder / DASHBOARDS_FOLDER, dirs_exist_ok=True)
    return [config, alerts, *sorted(dashboards.glob("*.json"))]


def _build_config(settings: Settings, cluster: Cluster) -> dict[str, object]:
    """One job; the edge tells the address of each node. Both need a key, which Prometheus reads from a file."""
    # The type is its default, which Prometheus 2.42 forgets in service discovery.
    key = {"type": "Bearer", "credentials_file": str(settings.home / "secrets" / secrets.ADMIN_KEY)}
    discovery = {"url": cluster.url + TARGETS_PATH, "authorization": key, "refresh_interval": "10s"}
    job = {"job_name": JOB, "authorization": dict(key), "http_sd_configs": [discovery]}
    return {
        "global": {"scrape_interval": SCRAPE_INTERVAL, "evaluation_interval": SCRAPE_INTERVAL},
        "rule_files": [ALERTS_FILE],
        "scrape_configs": [job],
    }
