"""Directory: a Ray actor on the head that knows every replica which takes requests, and tells the edges.

Deploy walk: membership.py -> [directory.py] -> edge.py
It reads keys, deployments and the certificate where they are, beside the databases. It keeps nothing of its own: where
it dies, Ray starts it again, members join it anew at their next renewal, and edges go on with what they know meanwhile.
"""

import asyncio
import contextlib
import logging
import ssl
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from deployments.edge.state import CANARY_SUFFIX, GRPC, EdgeState, Instructions, Member, Route, ShadowTarget, Split
from deployments.edge.wall_clock import WallClock
from deployments.observability.json_logs import configure_logging
from deployments.ray_internals import restart_serve_controller
from deployments.scaling.profile import PROFILES, Profile, ProfileCache
from deployments.scaling.report import ReplicaReport
from deployments.scaling.traffic import ReportHistory, Window
from deployments.settings import ServingSettings
from training.errors import UserError

if TYPE_CHECKING:
    from training.provenance.trust import TrustPolicy

if TYPE_CHECKING:
    from deployments.access.audit.log import AuditLog
    from deployments.access.audit.refusals import Refusal

EDGE_SECRET_FILE = Path("secrets") / "edge_secret"
NAME, NAMESPACE = "edge-directory", "shoal"

RENEW_INTERVAL_S = 1.0
# A member that has not renewed for so long is gone; the edges' health checks find that much earlier.
LEASE_S = 10.0
# Keys, deployments and certificate are read so often; with the edges' own time they are in force within a second.
READ_INTERVAL_S = 0.4
# The directory's own loop comes round in READ_INTERVAL_S; where it takes so long, its own stall is no member's silence.
MAX_STALL_S = 2.0
# An edge asks again after so long without a change; one that has not asked for EDGE_LEASE_S is gone.
WATCH_S, EDGE_LEASE_S = 2.0, 5.0
# How long joining and leaving wait for the edges.
MAX_APPLY_S = 5.0
# Each edge always has a call inside, each joining or leaving replica one.
MAX_CALLS = 10_000
# A controller, of rollouts or Serve's, that could not be started is started again.
CONTROL_INTERVAL_S = 5.0
logger = logging.getLogger(__name__)


class Directory:
    """The members, and how far each edge is."""

    def __init__(self) -> None:
        # Here, not above: members import this file, and the databases would take a tenth of a replica's cold start.
        from deployments.edge.valid_keys import ValidKeys
        from deployments.state.canary_store import CanaryStore
        from deployments.state.store import DeploymentStore

        settings = ServingSettings()
        configure_logging(settings.log_format)
        self._settings = settings
        self._keys, self._deployments = ValidKeys(settings), DeploymentStore(settings.platform)
        self._canaries = CanaryStore(settings.platform)
        self._audit: AuditLog | None = None
        # Whether there is to be a controller, as Ray was last told; None: one may be left from before a restart.
        self._has_controller: bool | None = None
        self._controlled_s = float("-inf")
        self._control: asyncio.Task[None] | None = None
        # Whether the clock was set back, and Serve's controller does not know it.
        self._is_set_back = False
        self._restart: asyncio.Task[None] | None = None
        # Percent of the requests that are copied to a canary, by the model's name.
        self._shadows: dict[str, float] = {}
        self._members: dict[str, Member] = {}
        self._renewed_s: dict[str, float] = {}
        self._reports: dict[str, ReportHistory] = {}
        self._started_s = time.monotonic()
        self._certificate, self._certificate_written = "", (0, 0)
        # Of the edges: the last revision that each has applied, and when it last asked.
        self._applied: dict[str, int] = {}
        self._asked_s: dict[str, float] = {}
        # Higher than in any earlier life of this actor.
        revision = time.time_ns()
        secret = (settings.home / EDGE_SECRET_FILE).read_text().strip()
        self._state = EdgeState(revision, False, (), (), {}, "", secret, self._keys.pepper)
        self._changed = asyncio.Condition()
        self._update(keys=self._keys.read(), **self._read())
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def get_secret(self) -> str:
        """What edges put into each request, so that a replica knows them."""
        return self._state.secret

    async def get_trust(self) -> "TrustPolicy | UserError":
        """Whose bundles replicas may load: the keys are on the head. What is wrong with them is returned."""
        from training.provenance.trust import load_policy

        try:
            return await asyncio.to_thread(load_policy, self._settings.home, self._settings.trust)
        except UserError as error:
            return error

    async def join(self, member: Member) -> None:
        """Add a member; returns when every edge sends requests to it, or after MAX_APPLY_S."""
        self._renewed_s[member.id] = time.monotonic()
        self._members[member.id] = member
        await self._wait_until_applied(await self._notify())

    async def renew(self, member: Member, report: ReplicaReport | None = None) -> Instructions:
        """Keep a member and its last report; one that is not known joins, as after a restart of this actor."""
        self._renewed_s[member.id] = time.monotonic()
        if report:
            self._reports.setdefault(member.id, ReportHistory()).add(time.monotonic(), report)
        if self._members.get(member.id) != member:
            self._members[member.id] = member
            await self._notify()
        return Instructions(
            self._find_shadow(member.route.name),
            tuple(each for each in self._state.splits if self._list_canary_addresses(each.name)),
            self._keys.ended if member.route.name == GRPC else frozenset(),
        )

    def _find_shadow(self, name: str) -> ShadowTarget | None:
        percent = self._shadows.get(name)
        return ShadowTarget(self._list_canary_addresses(name), percent) if percent else None

    def _list_canary_addresses(self, name: str) -> tuple[str, ...]:
        application = name + CANARY_SUFFIX
        return tuple(each.address for each in self._state.members if each.route.name == application)

    async def leave(self, member_id: str) -> None:
        """Remove a member; returns when no edge sends requests to it any more, or after MAX_APPLY_S."""
        if self._members.pop(member_id, None):
            self._renewed_s.pop(member_id, None)
            self._reports.pop(member_id, None)
            await self._wait_until_applied(await self._notify())

    async def watch(self, edge: str, applied: int) -> EdgeState:
        """Return the state once it is newer than what an edge has applied, or after WATCH_S.

        Args:
            edge: its id.
            applied: the revision that it has brought about.
        """
        self._asked_s[edge] = time.monotonic()
        async with self._changed:
            self._applied[edge] = applied
            self._changed.notify_all()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WATCH_S):
                    await self._changed.wait_for(lambda: self._state.revision != applied)
        self._asked_s[edge] = time.monotonic()
        return self._state

    async def list_members(self) -> list[Member]:
        """List the members."""
        return list(self._state.members)

    async def list_reports(self) -> list[tuple[Member, ReplicaReport]]:
        """List the members that have reported, each with its last report, of a second ago at most."""
        members = [member for member in self._state.members if member.id in self._reports]
        return [(member, self._reports[member.id].last) for member in members]

    async def list_windows(self) -> list[tuple[Member, Window | None]]:
        """List the members, each with what it did in the last seconds; None for one that has not reported yet."""
        histories = [(member, self._reports.get(member.id)) for member in self._state.members]
        return [(member, history.get_window() if history else None) for member, history in histories]

    async def keep_profile(self, profile: Profile) -> None:
        """Keep a replica's profile on the head, where commands read it: the replica may be on another node."""
        cache = ProfileCache(self._settings.home / "cache" / PROFILES)
        # A replica on another node may have an older one.
        known = await asyncio.to_thread(cache.load, profile.key)
        if known is None or known.measured_at <= profile.measured_at:
            await asyncio.to_thread(cache.save, profile)

    async def add_refusals(self, refusals: "list[Refusal]") -> None:
        """Append a row for each of an edge's refusals; raises where that cannot be, and the edge keeps them."""
        await asyncio.to_thread(self._append_refusals, refusals)

    def _append_refusals(self, refusals: "list[Refusal]") -> None:
        from deployments.access.audit.log import AuditLog

        # Not as this actor starts: edges and members need it where the database is away, too.
        self._audit = self._audit or AuditLog.open(self._settings)
        self._audit.append(*(each.to_event() for each in refusals))

    async def may_sleep(self, name: str) -> bool:
        """Whether a model or pipeline has no replica while nobody calls it."""
        record = await asyncio.to_thread(self._deployments.get_record, name)
        return record is not None and record.scale.min_replicas == 0

    async def list_edges(self) -> list[str]:
        """List the ids of the edges."""
        return list(self._asked_s)

    async def _run(self) -> None:
        last_s, wall_clock = time.monotonic(), WallClock()
        while True:
            await asyncio.sleep(READ_INTERVAL_S)
            try:
                if setback_s := wall_clock.measure_setback_s():
                    logger.warning("the clock was set back by %.0f s; Serve's controller is started anew", setback_s)
                    self._is_set_back = True
                self._follow_clock()
                now = time.monotonic()
                if now - last_s > MAX_STALL_S:
                    # This process was stopped, or had no CPU: nobody could renew.
                    self._extend_leases(now - last_s)
                last_s = now
                for member_id in [each for each, renewed_s in self._renewed_s.items() if now - renewed_s > LEASE_S]:
                    logger.warning("%s has not renewed for %s s", self._members.pop(member_id), LEASE_S)
                    del self._renewed_s[member_id]
                    self._reports.pop(member_id, None)
                for edge in [each for each, asked_s in self._asked_s.items() if now - asked_s > EDGE_LEASE_S]:
                    del self._asked_s[edge]
                    self._applied.pop(edge, None)
                # First, and by itself: keys expire without a database, too.
                await self._notify(keys=await asyncio.to_thread(self._keys.read))
                await self._notify(**await asyncio.to_thread(self._read))
                self._control_canaries()
            except Exception:
                # The database does not answer, or a file is being replaced: what was read before stands.
                logger.exception("the edge's state cannot be read")

    def _follow_clock(self) -> None:
        """Start Serve's controller anew where the clock was set back, until that is done."""
        if self._is_set_back and (self._restart is None or self._restart.done()):
            # Ray waits for its GCS, and neither members nor keys must.
            self._restart = asyncio.get_running_loop().create_task(self._restart_serve())

    async def _restart_serve(self) -> None:
        self._is_set_back = False
        try:
            await asyncio.to_thread(restart_serve_controller)
        except Exception:
            logger.exception("Serve's controller is not started anew")
            self._is_set_back = True
            await asyncio.sleep(CONTROL_INTERVAL_S)

    def _extend_leases(self, seconds: float) -> None:
        for times in (self._renewed_s, self._asked_s):
            for name in times:
                times[name] += seconds

    def _read(self) -> dict[str, Any]:
        canaries = self._canaries.list_active()
        routes = (
            *(Route.of(record.endpoint) for record in self._deployments.list_records()),
            *(Route.of(each.spec.deployment.endpoint, each.spec.application) for each in canaries),
        )
        splits = tuple(Split(each.spec.name, each.spec.version, each.weight, each.spec.split_by) for each in canaries)
        self._shadows = {each.spec.name: each.shadow_percent for each in canaries}
        certificate = self._read_certificate()
        return {"certificate": certificate, "routes": routes, "splits": splits}

    def _control_canaries(self) -> None:
        """Have a controller of rollouts while there are any, and none else."""
        if self._control and not self._control.done():
            return
        is_wanted = bool(self._state.splits)
        is_due = is_wanted and time.monotonic() - self._controlled_s > CONTROL_INTERVAL_S
        if is_due or is_wanted is not self._has_controller:
            self._controlled_s, self._has_controller = time.monotonic(), is_wanted
            # Ray waits for its GCS, and members must not.
            self._control = asyncio.get_running_loop().create_task(self._keep_controller(is_wanted))

    async def _keep_controller(self, is_wanted: bool) -> None:
        from deployments.rollout.controller import start_controller, stop_controller

        try:
            await asyncio.to_thread(start_controller if is_wanted else stop_controller)
        except Exception:
            self._has_controller = None
            logger.exception("the controller of rollouts is not %s", "started" if is_wanted else "stopped")

    def _read_certificate(self) -> str:
        """Read certificate and key where they have changed, and only once they fit each other."""
        if not self._settings.tls_cert:
            return ""
        cert, key = Path(self._settings.tls_cert), Path(self._settings.tls_key)
        try:
            written = cert.stat().st_mtime_ns, key.stat().st_mtime_ns
            if written != self._certificate_written:
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
                self._certificate = cert.read_text() + key.read_text()
                self._certificate_written = written
        except (OSError, ValueError) as error:
            # Keys and deployments must not wait for it. Without any there is no plain HTTP instead.
            if not self._certificate:
                raise
            logger.warning("the certificate is not renewed, %s and %s do not fit: %s", cert, key, error)
        return self._certificate

    async def _notify(self, **changes: Any) -> int:
        """Make a new revision where something has changed; returns the last one."""
        async with self._changed:
            if self._update(**changes):
                self._changed.notify_all()
        return self._state.revision

    def _update(self, **changes: Any) -> bool:
        members = tuple(sorted(self._members.values(), key=lambda member: member.id))
        is_complete = time.monotonic() - self._started_s > 2 * RENEW_INTERVAL_S
        state = replace(self._state, members=members, is_complete=is_complete, **changes)
        if state == self._state:
            return False
        self._state = replace(state, revision=state.revision + 1)
        return True

    async def _wait_until_applied(self, revision: int) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MAX_APPLY_S), self._changed:
                await self._changed.wait_for(lambda: all(each >= revision for each in self._applied.values()))


def get_directory() -> Any:
    """The handle of the cluster's directory, which the first caller starts."""
    # On the head: there the databases and the certificate are, where they are files.
    actor = ray.remote(num_cpus=0, resources={"node:__internal_head__": 0.001}, max_restarts=-1)(Directory)
    return actor.options(
        name=NAME, namespace=NAMESPACE, lifetime="detached", get_if_exists=True, max_concurrency=MAX_CALLS
    ).remote()
