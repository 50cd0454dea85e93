"""An edge with a real HAProxy in front of servers in this process, without Ray."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from ray.exceptions import RayError

from deployments.access.audit.refusals import Refusal
from deployments.edge import edge as edge_module
from deployments.edge.edge import Edge
from deployments.edge.haproxy import HAProxy
from deployments.edge.state import CONTROL, EDGE_DIR_VARIABLE, EdgeState, Member, Route
from deployments.scaling.report import ReplicaReport
from deployments.server.http_server import HttpServer
from deployments.server.middleware import HttpApp
from deployments.server.request import Request, Response
from deployments.server.served import Served
from deployments.settings import ServingSettings
from tests.deployments.callers import PEPPER, TESTER, digest

SECRET, KEY = "secret-of-the-edge", "a key"
AUTHORIZATION = {"authorization": f"Bearer {KEY}"}
MAX_BODY_BYTES = 1_000_000


_directory: ContextVar["FakeDirectory"] = ContextVar("directory")


class FakeDirectory:
    """What an edge asks of the directory; `tell` changes it."""

    def __init__(self, state: EdgeState) -> None:
        self.state = state
        self._changed = asyncio.Condition()
        self._applied = 0
        self.reports: list[tuple[Member, ReplicaReport]] = []
        self.refusals: list[Refusal] = []
        self.is_away = False
        self.watch = type("Method", (), {"remote": staticmethod(self._watch)})
        self.list_reports = type("Method", (), {"remote": staticmethod(self._list_reports)})
        self.add_refusals = type("Method", (), {"remote": staticmethod(self._add_refusals)})
        self.list_edges = type("Method", (), {"remote": staticmethod(self._list_edges)})

    async def _list_reports(self) -> list[tuple[Member, ReplicaReport]]:
        return self.reports

    async def _add_refusals(self, refusals: list[Refusal]) -> None:
        if self.is_away:
            raise RayError
        self.refusals += refusals

    async def _list_edges(self) -> list[str]:
        return []

    async def _watch(self, _: str, applied: int) -> EdgeState:
        async with self._changed:
            self._applied = applied
            self._changed.notify_all()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    await self._changed.wait_for(lambda: self.state.revision != applied)
        return self.state

    async def tell(self, **changes: Any) -> None:
        """Change the state; returns when the edge has applied it."""
        async with self._changed:
            self.state = replace(self.state, revision=self.state.revision + 1, **changes)
            self._changed.notify_all()
        async with asyncio.timeout(20), self._changed:
            await self._changed.wait_for(lambda: self._applied >= self.state.revision)


@dataclass(frozen=True)
class Replica:
    """A server in this process, and how the directory knows it."""

    server: HttpServer
    member: Member


class StoppableEdge(Edge.func_or_class):  # type: ignore[misc, name-defined]
    """The class that Serve makes a replica of, which awaits its __del__."""

    async def stop(self) -> None:
        """What Serve does at the end."""
        await super().__del__()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def __del__(self) -> None:
        """Python's own call comes after that."""


class LocalEdge:
    """One edge and its replicas."""

    def __init__(self, directory: FakeDirectory, edge: Any, http_port: int, grpc_port: int) -> None:
        self.directory, self.edge, self.http_port, self.grpc_port = directory, edge, http_port, grpc_port
        self.replicas: list[Replica] = []

    @property
    def haproxy(self) -> HAProxy:
        """Its processes."""
        return self.edge._haproxy  # type: ignore[no-any-return]

    @property
    def pids(self) -> list[int]:
        """The process ids of every HAProxy that runs."""
        return [each.identity.pid for each in self.haproxy._processes if each.identity.is_alive()]

    def open_http(self, **options: Any) -> httpx.AsyncClient:
        """A client that sends the key."""
        options = {"headers": AUTHORIZATION, "base_url": f"http://127.0.0.1:{self.http_port}", **options}
        return httpx.AsyncClient(trust_env=False, timeout=20, **options)

    async def add(self, name: str, app: HttpApp | None = None, **fields: Any) -> Replica:
        """Start one more replica and let it join."""
        replica = await start_replica(name, len(self.replicas), app, **fields)
        self.replicas.append(replica)
        await self.directory.tell(members=(*self.directory.state.members, replica.member))
        return replica

    async def remove(self, replica: Replica) -> None:
        """Let a replica leave; its server goes on."""
        members = tuple(each for each in self.directory.state.members if each != replica.member)
        await self.directory.tell(members=members)

    async def read_log(self) -> str:
        """What HAProxy has written, a moment later."""
        await asyncio.sleep(0.1)
        folder = self.haproxy._folder
        files = [folder / "haproxy.log", *sorted(folder.glob("access.log*"), reverse=True)]
        return "".join(file.read_text() for file in files if file.exists())


async def start_replica(
    name: str, number: int, app: HttpApp | None = None, served: Served | None = None, **fields: Any
) -> Replica:
    """Start a server that answers for a model or application."""
    member_id = f"{name.replace('.', '-')}-{number}"
    server = HttpServer(app or build_describing_app(member_id), served=served)
    port = await server.start("127.0.0.1")
    return Replica(server, Member(member_id, build_route(name), f"127.0.0.1:{port}", **fields))


def build_route(name: str) -> Route:
    return Route(name, 20.0)


def build_describing_app(replica: str) -> HttpApp:
    """An application that answers with the request as it came."""

    async def describe(request: Request) -> Response:
        fields = (*request.headers.items(), *request.duplicates)
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields]
        content = {"replica": replica, "method": request.method, "path": request.raw_path.decode("latin-1")}
        return Response(200, json.dumps(content | {"headers": headers, "bytes": len(request.body)}).encode())

    return HttpApp(describe, (), MAX_BODY_BYTES)


def find_port() -> int:
    """A free port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.asynccontextmanager
async def run_edge(
    folder: Path,
    names: Iterable[str] = (CONTROL, "flowers", "roses"),
    *,
    settings: ServingSettings | None = None,
    ports: tuple[int, int] | None = None,
    **fields: Any,
) -> AsyncIterator[LocalEdge]:
    """Run an edge in front of one replica of each name.

    Args:
        folder: of HAProxy's files.
        names: of applications.
        settings: of the service.
        ports: of HTTP and gRPC; free ones by default.
        fields: of the first EdgeState.
    """
    replicas = [await start_replica(name, number) for number, name in enumerate(names)]
    members = tuple(replica.member for replica in replicas)
    routes = tuple(each.route for each in members if each.route.name != CONTROL)
    values = {"routes": routes, "members": members, "keys": {digest(KEY): TESTER}, "certificate": ""} | fields
    directory = FakeDirectory(EdgeState(revision=1, is_complete=True, secret=SECRET, pepper=PEPPER, **values))
    ports = ports or (find_port(), find_port())
    with pytest.MonkeyPatch.context() as patch:
        # Tasks see the value that is set when they are created, so that each edge has its own.
        _directory.set(directory)
        patch.setattr(edge_module, "get_directory", _directory.get)
        patch.setattr(edge_module, "bind_replica_port", lambda host: None)
        patch.setattr(edge_module, "ServingSettings", lambda: settings or ServingSettings(home=folder))
        patch.setenv(EDGE_DIR_VARIABLE, str(folder / "edge"))
        edge = StoppableEdge.__new__(StoppableEdge)
        await edge.__init__("127.0.0.1", *ports)  # type: ignore[misc]
        local_edge = LocalEdge(directory, edge, *ports)
        local_edge.replicas += replicas
        try:
            yield local_edge
        finally:
            await edge.stop()
            for replica in local_edge.replicas:
                await replica.server.drain(0)
