"""Connect: this process becomes a Ray driver of a running cluster."""

import logging
import signal
from pathlib import Path
from typing import Any

from cluster.local.ray_environment import LOOPBACK
from cluster.local.ray_internals import expects_loopback
from cluster.local.running_cluster import Cluster
from cluster.settings import Settings
from training.errors import UserError


def connect(settings: Settings, cluster: Cluster, code: Path | None = None) -> None:
    """Attach this process to a running cluster.

    Args:
        settings: of the cluster.
        cluster: the running one.
        code: a folder of Python code that travels to every worker; see cluster.recipe_code.

    Raises:
        UserError: the folder cannot be sent.
    """
    import ray

    if settings.host == LOOPBACK and not expects_loopback():
        raise RuntimeError("Ray was imported before set_ray_environment; it would look for the cluster elsewhere")

    runtime_env: dict[str, Any] = {"working_dir": str(code)} if code else {}
    handler = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
    try:
        ray.init(address=cluster.ray_address, log_to_driver=False, logging_level=logging.ERROR, runtime_env=runtime_env)
    except ray.exceptions.RuntimeEnvSetupError as error:
        raise UserError(f"the recipe's code cannot be sent to the cluster: {' '.join(str(error).split())}") from error
    # ray.init replaces it.
    signal.signal(signal.SIGTERM, handler)
