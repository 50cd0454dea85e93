"""Abandoned changes: the cluster finishes what a command began that was killed.

Deploy walk: app.py -> [abandoned.py] -> cluster.rollout.change
The work is done by a process that has the code and the lock of a command, so that both never change the same things.
"""

import asyncio
import logging
import sys

from deployments.state.store import DeploymentStore
from training.registry.process_identity import ProcessIdentity

CHECK_INTERVAL_S = 1.0
# After a process that failed, as where Serve does not answer.
RETRY_INTERVAL_S = 5.0
# By its name: nothing here imports what is in `cluster`.
COMMAND = (sys.executable, "-m", "cluster.rollout.change")
logger = logging.getLogger("ray.serve")


async def finish_abandoned_changes(store: DeploymentStore, command: tuple[str, ...] = COMMAND) -> None:
    """Watch for changes whose command was killed, and have each finished; runs until it is canceled.

    Args:
        store: of the deployments, on the machine where commands run.
        command: that finishes them.
    """
    while True:
        await asyncio.sleep(CHECK_INTERVAL_S)
        try:
            if await asyncio.to_thread(_has_abandoned, store):
                await _run(command)
        except Exception:
            # The database does not answer, or no process can be started: the next attempt may succeed.
            logger.exception("changes whose command was killed cannot be finished")
            await asyncio.sleep(RETRY_INTERVAL_S)


def _has_abandoned(store: DeploymentStore) -> bool:
    return any(_has_ended(revision.owner) for revision in store.list_open_revisions() if revision.owner)


def _has_ended(owner: str) -> bool:
    try:
        return ProcessIdentity.parse(owner).has_ended()
    except ValueError:
        return True  # an earlier Shoal kept none


async def _run(command: tuple[str, ...]) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    try:
        _, stderr = await process.communicate()
    except asyncio.CancelledError:
        process.terminate()
        raise
    if process.returncode:
        lines = stderr.decode(errors="replace").strip().splitlines() or [f"exit code {process.returncode}"]
        logger.warning("a change whose command was killed is not finished: %s", lines[-1])
        await asyncio.sleep(RETRY_INTERVAL_S)
