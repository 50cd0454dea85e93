"""Warm processes: so many on this node have imported all that serves a model, and wait for one.

Deploy walk: deployments.edge.edge -> [warm_processes.py] -> deployments.models.preload
Ray gives an actor an idle process of the same runtime environment before it starts another. It has no call that starts
an idle one; but where an actor that was asked for is given up before its process is there, the process stays.
"""

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from deployments.models.preload import RUNTIME_ENV, warm_folder

CHECK_INTERVAL_S = 1.0
# A model that has just got one first loads and answers; two cores would not do both at once.
REPLACE_DELAY_S = 5.0
# Where the machine is so busy that a process takes long, a second one would not help.
START_TIMEOUT_S = 180.0
logger = logging.getLogger("ray.serve")


class _Placeholder:
    """An actor that is never made."""


class WarmProcesses:
    """Keeps warm processes on this node."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._missing_since_s = 0.0
        self._started_s = float("-inf")

    async def run(self) -> None:
        """Keep so many, until canceled."""
        while self._count:
            try:
                if self._is_due(len(list_warm(warm_folder()))):
                    self._start_one()
            except Exception:
                # Replicas start without it, later.
                logger.exception("no warm process can be started")
            await asyncio.sleep(CHECK_INTERVAL_S)

    def _is_due(self, present: int) -> bool:
        now_s = time.monotonic()
        if present >= self._count:
            self._missing_since_s, self._started_s = now_s, float("-inf")
            return False
        return now_s - self._missing_since_s > REPLACE_DELAY_S and now_s - self._started_s > START_TIMEOUT_S

    def _start_one(self) -> None:
        self._started_s = time.monotonic()
        node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(num_cpus=0)(_Placeholder)
        placeholder: Any = actor.options(runtime_env=RUNTIME_ENV, scheduling_strategy=node).remote()
        ray.kill(placeholder)


def list_warm(folder: Path) -> list[int]:
    """List the processes that wait, by their ids; the files of those that have ended are deleted."""
    processes = []
    for file in folder.glob("*"):
        if psutil.pid_exists(int(file.name)):
            processes.append(int(file.name))
        else:
            file.unlink(missing_ok=True)
    return processes
