"""Membership of one replica: it joins the directory when it is warm, renews, and leaves before it stops.

Deploy walk: replica_server.py -> [membership.py] -> directory.py
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError

from deployments.edge.directory import RENEW_INTERVAL_S, get_directory
from deployments.edge.state import Instructions, Member
from deployments.scaling.profile import Profile
from deployments.scaling.report import ReplicaReport
from training.errors import UserError

if TYPE_CHECKING:
    from training.provenance.trust import TrustPolicy

LEAVE_TIMEOUT_S = 6.0
RETRY_INTERVAL_S = 0.2
logger = logging.getLogger("ray.serve")


class Membership:
    """One member of the directory."""

    def __init__(
        self,
        member: Member,
        report: Callable[[], ReplicaReport] | None = None,
        follow: Callable[[Instructions], None] | None = None,
    ) -> None:
        """Make a membership; it joins after `join`.

        Args:
            member: what the edges send requests to.
            report: what it has done; goes to the directory each second.
            follow: gets what the directory tells with each renewal.
        """
        self._member, self._report, self._follow = member, report, follow
        self._task: asyncio.Task[None] | None = None

    async def join(self) -> None:
        """Join; returns when the edges send requests."""
        await _call_until_answered(lambda: get_directory().join.remote(self._member))
        self._task = asyncio.get_running_loop().create_task(self._renew())

    async def leave(self) -> None:
        """Leave; returns when no edge sends requests any more."""
        if self._task:
            self._task.cancel()
        with contextlib.suppress(TimeoutError, RayError):
            async with asyncio.timeout(LEAVE_TIMEOUT_S):
                await get_directory().leave.remote(self._member.id)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_INTERVAL_S)
            try:
                report = self._report() if self._report else None
                instructions = await get_directory().renew.remote(self._member, report)
                if self._follow:
                    self._follow(instructions)
            except (RayError, ValueError) as error:
                logger.warning("the directory does not answer: %s", error)
            except Exception:
                # Without the next renewal no edge would send requests any more.
                logger.exception("the directory was not told, or what it tells was not followed")


async def fetch_edge_secret() -> str:
    """What edges put into each request, so that a replica knows them."""
    secret: str = await _call_until_answered(lambda: get_directory().get_secret.remote())
    return secret


async def fetch_trust() -> "TrustPolicy":
    """Whose bundles replicas may load.

    Raises:
        UserError: the rule names a key that cannot be read.
    """
    policy: TrustPolicy | UserError = await _call_until_answered(lambda: get_directory().get_trust.remote())
    if isinstance(policy, UserError):
        raise policy
    return policy


def send_profile(profile: Profile) -> None:
    """Leave a replica's profile with the directory, where the control application finds it; nothing waits for it."""
    with contextlib.suppress(RayError):
        get_directory().keep_profile.remote(profile)


async def _call_until_answered(call: Callable[[], Awaitable[Any]]) -> Any:
    """Call the directory again while Ray starts it anew."""
    while True:
        try:
            return await call()
        except RayError:
            await asyncio.sleep(RETRY_INTERVAL_S)


def get_listen_host(host: str) -> str:
    """The one address that a replica listens on: loopback, or this node's where the cluster has several."""
    # Compared, not bound.
    return ray.util.get_node_ip_address() if host == "0.0.0.0" else host  # nosec B104
