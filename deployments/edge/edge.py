"""Edge: a Serve deployment that keeps one HAProxy as the directory says; one replica on each edge node.

Deploy walk: directory.py -> [edge.py] -> template.py, haproxy.py
No request passes through this process. Where it dies, HAProxy goes on, and its successor takes it over; where HAProxy
dies, it is started again at once.
"""

import asyncio
import contextlib
import logging
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import ray
from ray import serve
from ray.exceptions import RayError

from deployments.access.audit.refusals import RefusalCounter
from deployments.access.authorization import RequiredAction
from deployments.access.scopes import Action
from deployments.access.usage.replica_meter import start_sweeper
from deployments.edge.directory import get_directory
from deployments.edge.haproxy import HAProxy, make_private_dir
from deployments.edge.state import CONTROL, EDGE, EDGE_DIR_VARIABLE, GRPC, EdgeState, Listen, Member
from deployments.edge.template import (
    Files,
    describe_server,
    list_members,
    list_model_routes,
    list_weights,
    render_config,
    write_files,
)
from deployments.observability.access_log import AccessLog
from deployments.observability.edge_spans import EdgeSpans
from deployments.observability.exposition import Reports
from deployments.observability.node_metrics import NodeList, NodeMetrics
from deployments.observability.tracing import build_tracer
from deployments.ray_internals import bind_replica_port
from deployments.scaling.warm_processes import WarmProcesses
from deployments.server.edge_check import EdgeCheck
from deployments.server.http_server import HttpServer
from deployments.server.middleware import HttpApp
from deployments.settings import ServingSettings
from training.errors import ServiceError

if TYPE_CHECKING:
    from deployments.edge.token_server import TokenServer

# What HAProxy says of a command that it has carried out; mostly it says nothing.
SUCCESS_ANSWERS = (
    "New server registered",
    "Server deleted",
    "Transaction created",
    "Transaction updated",
    # watch_keys.lua has deleted it first.
    "Key not found",
)
LOOPBACK = "127.0.0.1"
# Requests for metrics have none.
MAX_METRICS_BODY = 1024
RETRY_INTERVAL_S = 0.3
SUPERVISE_INTERVAL_S = 0.2
REFUSALS_INTERVAL_S = 1.0
logger = logging.getLogger("ray.serve")


@serve.deployment(name="edge")
class Edge:
    """One HAProxy."""

    async def __init__(self, host: str, http_port: int, grpc_port: int) -> None:  # type: ignore[misc]
        bind_replica_port(host)
        node_id = ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
        self._id = f"{uuid.uuid4().hex}@{node_id}"
        self._settings, self._listen = ServingSettings(), Listen(host, http_port, grpc_port)
        folder = Path(os.environ[EDGE_DIR_VARIABLE])
        self._metrics = NodeMetrics(
            node_id,
            http_port,
            Files(folder, folder).exporter_socket,
            NodeList().fetch,
            _fetch_reports,
            self._fetch_edges,
            lambda: self._state.splits,
        )
        self._metrics_address = ""
        self._folder = folder
        self._tracer = build_tracer(self._settings.tracing, EDGE, 0, self._id)
        self._refusals = RefusalCounter()
        self._access_log = self._open_access_log()
        self._haproxy = HAProxy(folder, self._settings.haproxy, self._access_log.descriptor)
        self._removed: set[str] = set()
        # Whether HAProxy has the whole state; where a change has failed, it gets all of it anew.
        self._is_applied = False
        self._lock = asyncio.Lock()
        self._state = await self._fetch_first_state()
        # Of this node alone, and for HAProxy alone.
        layers = (EdgeCheck(self._state.secret), RequiredAction(Action.METRICS))
        metrics_server = HttpServer(HttpApp(self._metrics, layers, MAX_METRICS_BODY))
        self._metrics_address = f"{LOOPBACK}:{await metrics_server.start(LOOPBACK)}"
        self._tokens = await self._start_token_server()
        await self._restart()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(each()) for each in (self._follow, self._supervise, self._hand_on_refusals)]
        warm_processes = WarmProcesses(self._settings.scaling.warm_processes)
        self._tasks.append(loop.create_task(warm_processes.run()))
        self._sweeper = start_sweeper(self._settings)

    def _open_access_log(self) -> AccessLog:
        edge = self._settings.edge
        make_private_dir(self._folder)
        on_traced = EdgeSpans(self._tracer).add if self._tracer else None
        access_log = AccessLog(
            self._folder,
            edge.access_log_bytes,
            writes=edge.access_log,
            on_traced=on_traced,
            on_lines=self._refusals.count,
        )
        access_log.start(asyncio.get_running_loop())
        return access_log

    async def _start_token_server(self) -> "TokenServer | None":
        if not self._settings.oidc_issuer:
            return None
        # Here, not above: it imports what only tokens need.
        from deployments.edge.token_server import TokenServer

        server = TokenServer(self._settings, self._files.tokens_socket, self._files.tokens)
        await server.start()
        return server

    async def _fetch_edges(self) -> dict[str, bool]:
        """The ids of the nodes with an edge, and whether edges speak TLS."""
        edges = await get_directory().list_edges.remote()
        return {edge.partition("@")[2]: bool(self._state.certificate) for edge in edges}

    async def _fetch_first_state(self) -> EdgeState:
        while True:
            state: EdgeState = await get_directory().watch.remote(self._id, 0)
            # A HAProxy that runs already may know more than a directory that has just started.
            if state.is_complete or not self._haproxy.is_alive():
                return state

    async def check_health(self) -> None:
        """Called by Serve every few seconds."""
        if not self._haproxy.is_alive():
            raise ServiceError("HAProxy has ended")

    async def __del__(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self._sweeper.stop()
        await self._haproxy.stop()
        await self._metrics.close()
        if self._tokens:
            await self._tokens.close()
        self._access_log.close(asyncio.get_running_loop())
        if self._tracer:
            self._tracer.close()

    async def _follow(self) -> None:
        """Bring about every state that the directory tells; while it is away, the last one stands."""
        revision, answered_s = self._state.revision, time.monotonic()
        while True:
            try:
                state = await get_directory().watch.remote(self._id, revision)
                answered_s = time.monotonic()
                async with self._lock:
                    await self._apply(state)
                revision = state.revision
            except (RayError, ValueError) as error:
                logger.warning("the directory does not answer: %s", error)
                if self._state.keys and time.monotonic() - answered_s > self._settings.access.max_database_outage_s:
                    # Nobody says any more whose keys are good.
                    async with self._lock:
                        await self._apply(replace(self._state, keys={}))
                await asyncio.sleep(RETRY_INTERVAL_S)
            except Exception:
                logger.exception("the edge cannot be changed")
                await asyncio.sleep(RETRY_INTERVAL_S)

    async def _hand_on_refusals(self) -> None:
        """Give what was refused to the directory, which is beside the audit log."""
        while True:
            await asyncio.sleep(REFUSALS_INTERVAL_S)
            refusals = self._refusals.take()
            try:
                if refusals:
                    await get_directory().add_refusals.remote(refusals)
            except Exception as error:
                # The directory or its database is away; they are counted on meanwhile.
                self._refusals.put_back(refusals)
                logger.warning("refusals are not in the audit log yet: %s", error)

    async def _supervise(self) -> None:
        """Start HAProxy again where it has ended, or is stuck."""
        while True:
            await asyncio.sleep(SUPERVISE_INTERVAL_S)
            # Not under the lock: a change that is under way waits for the answer of the same process.
            if await self._haproxy.kill_stuck():
                logger.error("HAProxy was stuck; it has been killed")
            elif self._haproxy.is_alive():
                continue
            try:
                async with self._lock:
                    # A reload that was under way has replaced the one that has ended.
                    if not self._haproxy.is_alive():
                        logger.error("HAProxy has ended; it is started again")
                        await self._restart()
            except Exception:
                # Whatever it is, the next attempt may succeed; nobody else makes one.
                logger.exception("HAProxy cannot be started")
                await asyncio.sleep(RETRY_INTERVAL_S)

    async def _apply(self, state: EdgeState) -> None:
        if not state.is_complete:
            # The directory has just started: members that it does not know yet go on.
            known = {member.id for member in state.members}
            members = (*state.members, *(each for each in self._state.members if each.id not in known))
            state = replace(state, members=members)
        before, self._state = self._state, state
        if not self._is_applied or _needs_reload(before, state):
            await self._drain_leaving(before, state)
            await self._restart()
        elif before != state:
            self._is_applied = False
            self._write_files()
            await self._change(before, state)
            self._is_applied = True
        await self._delete_removed()

    async def _change(self, before: EdgeState, after: EdgeState) -> None:
        """Make a change by the runtime API."""
        commands = [
            *_change_map(self._files.keys, before.keys, after.keys),
            *(_change_map(self._files.splits, list_weights(before), list_weights(after)) if before.splits else ()),
            *self._change_servers(before, after),
        ]
        if before.certificate != after.certificate:
            # An empty line ends it, and none is within a PEM file's blocks.
            pem = "\n".join(line for line in after.certificate.splitlines() if line.strip())
            file = self._files.certificate
            commands += [f"set ssl cert {file} <<\n{pem}\n", f"commit ssl cert {file}"]
        answers = await self._haproxy.run_commands(commands)
        for command, answer in zip(commands, answers, strict=True):
            if answer and not answer.startswith(SUCCESS_ANSWERS) and "Success!" not in answer:
                raise ServiceError(f"HAProxy refused {command.split(' <<')[0]!r}: {answer}")

    async def _drain_leaving(self, before: EdgeState, after: EdgeState) -> None:
        """Send nothing more to members that leave: a process that is replaced answers idle connections once more."""
        # Control's have no other: they answer while the next process starts.
        names = [name for name in _list_leaving(before, after) if not name.startswith("control/")]
        commands = [command for name in names for command in _build_drain_commands(name)]
        if commands and self._haproxy.is_alive():
            with contextlib.suppress(ServiceError):
                await self._haproxy.run_commands(commands)

    async def _restart(self) -> None:
        """Start HAProxy anew with the whole state; the process before it finishes its connections."""
        self._is_applied = False
        self._write_files()
        config = render_config(self._state, self._settings, self._listen, self._files)
        await self._haproxy.start(config)
        self._removed.clear()
        self._is_applied = True

    @property
    def _files(self) -> Files:
        return Files(self._folder, self._haproxy.next_admin_socket(), self._metrics_address)

    def _write_files(self) -> None:
        """Write what HAProxy reads when it starts."""
        write_files(self._files, self._state, self._settings)

    def _change_servers(self, before: EdgeState, after: EdgeState) -> list[str]:
        commands = []
        for name in _list_leaving(before, after):
            commands += _build_drain_commands(name)
            self._removed.add(name)
        known = {_get_server(member) for member in before.members}
        members = {_get_server(member): member for member in after.members}
        for name in members.keys() - known:
            member = members[name]
            commands += [
                f"add server {name} {describe_server(member, self._settings, self._files)}",
                f"enable server {name}",
                f"enable health {name}",
            ]
        return commands

    async def _delete_removed(self) -> None:
        """Delete the servers whose last request has ended."""
        for name in list(self._removed):
            answers = await self._haproxy.run_commands([f"set server {name} state maint", f"del server {name}"])
            if answers and answers[-1].startswith(("Server deleted", "No such server")):
                self._removed.discard(name)


async def _fetch_reports() -> Reports:
    reports: Reports = await get_directory().list_reports.remote()
    return reports


def _needs_reload(before: EdgeState, after: EdgeState) -> bool:
    """Whether the runtime API cannot make the change: another backend, another kind of port, another fallback."""
    return (
        list_model_routes(before) != list_model_routes(after)
        or list_members(before, CONTROL) != list_members(after, CONTROL)
        or bool(before.certificate) != bool(after.certificate)
        or before.secret != after.secret
        or before.pepper != after.pepper
        or [(split.name, split.by) for split in before.splits] != [(split.name, split.by) for split in after.splits]
    )


def _change_map(file: Path, before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    commands = [f"del map {file} {key}" for key in before if key not in after]
    for key, value in after.items():
        if key not in before:
            commands.append(f"add map {file} {key} {value}")
        elif before[key] != value:
            commands.append(f"set map {file} {key} {value}")
    return commands


def _list_leaving(before: EdgeState, after: EdgeState) -> set[str]:
    """The servers that are not there any more."""
    return {_get_server(member) for member in before.members} - {_get_server(member) for member in after.members}


def _build_drain_commands(server: str) -> list[str]:
    """It finishes what it has, and gets no more. Its port may be closed before that, which no check must see."""
    return [f"disable health {server}", f"set server {server} state drain"]


def _get_server(member: Member) -> str:
    backend = {CONTROL: "control", GRPC: "grpc"}.get(member.route.name, f"model.{member.route.name}")
    return f"{backend}/{member.id}"
