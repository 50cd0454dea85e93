"""Ray's switches: every variable that Ray reads from the environment, set in this one place, each with its reason."""

import os

from cluster.local import secrets
from cluster.local.running_cluster import temp_dir
from cluster.settings import Settings

LOOPBACK, ANY = "127.0.0.1", "0.0.0.0"


def set_ray_environment(settings: Settings) -> None:
    """Set Ray's switches in this process; Ray reads most of them at import, so this comes first."""
    os.environ.update(ray_environment(settings))


def ray_environment(settings: Settings) -> dict[str, str]:
    """Every switch that Ray reads from the environment."""
    home, folder = settings.home, temp_dir(settings.home)
    switches = {
        # Nodes, drivers and jobs need this cluster's token.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(home / "secrets" / secrets.RAY_TOKEN),
        "RAY_USAGE_STATS_ENABLED": "0",
        # HAProxy sends a request straight to a replica: 5,584 requests/s where Serve's own proxy did 207.
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # Inference is idempotent: a request that a dying replica did not answer is sent once more, to another.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(settings.drain_s),
        # On a busy machine HAProxy needs more than the 5 s after which Ray kills the process that starts it, and then
        # refuses the pending configuration.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
        # Serve's controller reconciles ten times a second by default and queries the GCS each time: 5% of a busy net's
        # throughput on two cores.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.15",
        # Train hands reports on once per health check: every 2 s by default, which would hold up short epochs.
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        # A worker that cannot start within this is placed anew; the default, 60 s, would cost a lost node a minute.
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
        # HAProxy would send a datagram per request to a Python process, a quarter of a small model's time for it;
        # replicas count requests themselves.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        # HAProxy needs little beside the replicas; its default of 4 threads would crowd a small machine.
        "RAY_SERVE_HAPROXY_NBTHREAD": str(max(1, min(4, (os.cpu_count() or 1) // 4))),
        # Ray starts workers with nice 15; replicas must not yield to everything else.
        "RAY_worker_niceness": "0",
        # Everything that HAProxy writes stays in our temp dir.
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "hap" / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "hap" / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "hap" / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder / "hap"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "hap" / "server-state"),
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(home / "run" / "haproxy"),
    }
    if settings.host == LOOPBACK:
        # Despite its name it decides on every system whether Ray uses the machine's address or loopback: with 0 Ray's
        # own ports listen on 127.0.0.1 only.
        switches["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    return switches


def bypass_proxies(host: str) -> None:
    """Keep requests to a host from a proxy that HTTP_PROXY names: Ray's job client sends the cluster's token."""
    for name in ("no_proxy", "NO_PROXY"):
        hosts = [*os.environ.get(name, "").split(","), host]
        os.environ[name] = ",".join(filter(None, hosts))
