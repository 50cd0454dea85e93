"""Canary controller: a Ray actor on the head that looks at every rollout each second, and acts: next step, end.

Rollout walk: deployments.edge.directory -> [controller.py] -> progress.py, deployments.state.canary_store
The directory keeps it while there are rollouts. What it knows is in the database: where it dies, Ray starts it again,
and it goes on with the evidence of at most EVIDENCE_INTERVAL_S before. What changes Serve's configuration is done by a
process of cluster.rollout.canary, as by a command, so that neither stands in another one's way.
"""

import asyncio
import contextlib
import logging
import subprocess
import sys
import time
from functools import cached_property
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from deployments.control.summary import find_error
from deployments.edge.directory import NAMESPACE, get_directory
from deployments.rollout.canary import Canary, CanaryState
from deployments.rollout.progress import Progress, Reports
from deployments.settings import ServingSettings
from deployments.state.canary_store import CanaryStore

NAME = "canary-controller"
FINISH_MODULE = "cluster.rollout.canary"

LOOK_INTERVAL_S = 1.0
# The evidence is some 10 KB for each rollout.
EVIDENCE_INTERVAL_S = 5.0
# One that failed is started again after so long: Serve or the database did not answer.
FINISH_INTERVAL_S = 5.0
FAILED_STATUSES = ("DEPLOY_FAILED", "UNHEALTHY")
logger = logging.getLogger(__name__)


class Controller:
    """Follows every rollout."""

    def __init__(self) -> None:
        self._settings = ServingSettings()
        self._progress: dict[int, Progress] = {}
        self._written_s = 0.0
        self._finishing: subprocess.Popen[bytes] | None = None
        self._finishing_s = float("-inf")
        self._task = asyncio.get_running_loop().create_task(self._run())

    @cached_property
    def _store(self) -> CanaryStore:
        # Not as it starts: where the database is away, the next look tries again.
        return CanaryStore.open(self._settings)

    async def ping(self) -> None:
        """Answer."""

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_INTERVAL_S)
            try:
                await self._look()
            except Exception:
                # The database or the directory does not answer; nothing is decided meanwhile.
                logger.exception("rollouts cannot be looked at")

    async def _look(self) -> None:
        canaries = await asyncio.to_thread(lambda: self._store.list_active())
        self._progress = {each.id: self._progress[each.id] for each in canaries if each.id in self._progress}
        if not canaries:
            return
        reports: Reports = await get_directory().list_reports.remote()
        is_due = time.monotonic() - self._written_s > EVIDENCE_INTERVAL_S
        for canary in canaries:
            try:
                await asyncio.to_thread(self._follow, canary, reports, is_due)
            except Exception:
                logger.exception("the rollout of %s:%s cannot be followed", canary.spec.name, canary.spec.version)
        if is_due:
            self._written_s = time.monotonic()
        if any(canary.state.phase not in ("starting", "running") for canary in canaries):
            self._finish()

    def _follow(self, canary: Canary, reports: Reports, is_due: bool) -> None:
        if canary.state.phase not in ("starting", "running"):
            # From here on the process that brings it about writes the state.
            return
        progress = self._progress.get(canary.id)
        if progress is None:
            progress = self._progress[canary.id] = self._begin(canary)
        failure = _find_failure(canary) if progress.awaits_start(canary, reports) else ""
        now_s = time.time()
        if failure:
            state = progress.fail(canary, failure, now_s)
        else:
            state = progress.look(canary, reports, now_s, time.monotonic())
        try:
            self._write(canary, state, progress, is_due)
        except Exception:
            # It has gone on from what is written; the next look begins with that.
            del self._progress[canary.id]
            raise
        if state.phase != canary.state.phase:
            logger.warning("canary %s:%s: %s: %s", canary.spec.name, canary.spec.version, state.phase, state.reason)

    def _begin(self, canary: Canary) -> Progress:
        comparison, start_timeout_s = self._store.read_comparison(canary.id), self._settings.deploy_timeout_s
        try:
            return Progress(canary, comparison, start_timeout_s)
        except Exception:
            # Another release has written it: without evidence nothing is promoted, and a person can end it.
            logger.exception("the evidence on %s:%s begins anew", canary.spec.name, canary.spec.version)
            return Progress(canary, None, start_timeout_s)

    def _write(self, canary: Canary, state: CanaryState, progress: Progress, is_due: bool) -> None:
        if is_due or (state.phase, state.step) != (canary.state.phase, canary.state.step):
            self._store.write_progress(canary.id, state, progress.dump())
        elif state != canary.state:
            self._store.write_state(canary.id, state)

    def _finish(self) -> None:
        """Let a process bring about what has been decided, one at a time."""
        if self._finishing and self._finishing.poll() is None:
            return
        if time.monotonic() - self._finishing_s > FINISH_INTERVAL_S:
            self._finishing_s = time.monotonic()
            self._finishing = subprocess.Popen([sys.executable, "-m", FINISH_MODULE], stdin=subprocess.DEVNULL)


def _find_failure(canary: Canary) -> str:
    """Why a canary cannot start; empty while it may."""
    try:
        application = serve.status().applications.get(canary.spec.application)
    except (RayError, RayServeException):
        return ""
    if application is None or application.status.value not in FAILED_STATUSES:
        return ""
    lines = [each.message for each in application.deployments.values()] + [application.message]
    reasons = [line.strip() for text in lines for line in text.splitlines() if line.strip()]
    return f"version {canary.spec.version} does not start: {find_error(reasons)}"


def start_controller() -> Any:
    """The handle of the cluster's controller, which the first caller starts."""
    # On the head: there the database is, where it is a file.
    actor = ray.remote(num_cpus=0, resources={"node:__internal_head__": 0.001}, max_restarts=-1)(Controller)
    return actor.options(name=NAME, namespace=NAMESPACE, lifetime="detached", get_if_exists=True).remote()


def stop_controller() -> None:
    """End the cluster's controller, whoever started it; nothing where there is none."""
    # Outside of a cluster Ray would start one to look in.
    if ray.is_initialized():
        with contextlib.suppress(ValueError):
            ray.kill(ray.get_actor(NAME, namespace=NAMESPACE))
