"""Ray's switches: every variable that Ray reads from the environment, set in this one place, each with its reason."""

import os

from cluster.local import secrets
from cluster.settings import Settings

LOOPBACK = "127.0.0.1"
# Chosen by a setting alone, which network.py refuses without protection.
ANY = "0.0.0.0"  # nosec B104


def set_ray_environment(settings: Settings) -> None:
    """Set Ray's switches in this process; Ray reads most of them at import, so this comes first."""
    os.environ.update(ray_environment(settings))


def ray_environment(settings: Settings) -> dict[str, str]:
    """Every switch that Ray reads from the environment."""
    switches = {
        # Nodes, drivers and jobs need this cluster's token.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(settings.home / "secrets" / secrets.RAY_TOKEN),
        "RAY_USAGE_STATS_ENABLED": "0",
        # What RAY_SERVE_THROUGHPUT_OPTIMIZED would switch on, less its direct ingress, which keeps an old replica 30 s:
        # a replica's methods run in its own event loop, handle calls go over gRPC, logs to files alone.
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
        "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        "RAY_SERVE_FREEZE_GC_ON_STARTUP": "1",
        # A replica that does not answer its health checks cannot be asked to stop; Serve would wait as for one that
        # drains.
        "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
        # Serve's controller reconciles ten times a second by default and queries the GCS each time: 5% of a busy net's
        # throughput on two cores.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.15",
        # Train hands reports on once per health check: every 2 s by default, which would hold up short epochs.
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        # A worker that cannot start within this is placed anew; the default, 60 s, would cost a lost node a minute.
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
        # Does nothing but in processes of models' replicas, where it imports torch and the rest before a model comes.
        "RAY_preload_python_modules": "deployments.models.preload",
        # Ray starts workers with nice 15; replicas must not yield to everything else.
        "RAY_worker_niceness": "0",
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
