"""Servers of replicas with limits, and one ledger for them, in this process: real sockets, a real database."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from deployments.access.authorization import Authorization
from deployments.access.limits.accounts import Accounts
from deployments.access.limits.leasing import Lease, LeaseRequest, Policies
from deployments.access.limits.ledger import Ledger
from deployments.server.edge_check import CALLER_HEADER, SECRET_HEADER
from deployments.server.http_server import HttpServer
from deployments.server.middleware import compose_http
from deployments.server.request import Handler, Request, Response
from deployments.settings import Limits
from deployments.state.limit_store import LimitStore
from tests.deployments.callers import encode_caller
from tests.deployments.server.raw_http import RawConnection, encode_request, open_raw
from tests.deployments.server.raw_http import Response as RawResponse

SECRET = "edge"
PATH = "/v2/models/digits/infer"


class LocalLedger:
    """A ledger that tells its limits, and may be away."""

    def __init__(self, folder: Path, limits: dict[str, dict[str, str]]) -> None:
        self.ledger = Ledger(LimitStore(f"sqlite:///{folder}/platform.db"))
        # Its start is some time ago: places are lent at once.
        self.ledger._started_s -= 60
        self._policies, self._changed = Policies(), asyncio.Condition()
        self._thread = ThreadPoolExecutor(1)
        self.is_away = False
        self.exchanges: Counter[str] = Counter()
        self._set(limits)

    def _set(self, limits: dict[str, dict[str, str]]) -> None:
        self._policies = replace(self._policies, revision=self._policies.revision + 1, limits=limits)
        self.ledger.set_policies(self._policies)

    async def set_limits(self, limits: dict[str, dict[str, str]]) -> None:
        """Change all limits."""
        async with self._changed:
            self._set(limits)
            self._changed.notify_all()

    async def open_accounts(self, holder: str) -> Accounts:
        """The accounts of a replica."""

        async def exchange(requests: Sequence[LeaseRequest]) -> list[Lease]:
            self.exchanges[holder] += 1
            if self.is_away:
                raise ConnectionError("the ledger has died")
            if not self.ledger.needs_database(requests):
                return self.ledger.exchange(holder, requests)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, self.ledger.exchange, holder, requests)

        async def watch(revision: int) -> Policies:
            async with self._changed:
                await self._changed.wait_for(lambda: self._policies.revision != revision)
            return self._policies

        accounts = Accounts(exchange, watch)
        await accounts.start()
        return accounts


class LimitedReplica:
    """A server with limits; it counts what has reached its handler."""

    def __init__(self, server: HttpServer, port: int, accounts: Accounts, admitted: list[Request]) -> None:
        self.server, self.port, self.accounts, self.admitted = server, port, accounts, admitted

    async def kill(self) -> None:
        """Die: nothing is answered, settled or given back."""
        for task in self.accounts._tasks:
            task.cancel()
        for connection in list(self.server.connections):
            connection.transport.abort()
        await self.server.drain(0)


StartReplica = Callable[..., Awaitable[LimitedReplica]]


@contextlib.asynccontextmanager
async def run_replicas() -> AsyncIterator[StartReplica]:
    """Yields a function that starts a replica with a ledger; all are stopped at the end."""
    replicas: list[LimitedReplica] = []

    async def start(ledger: LocalLedger, respond: Handler | None = None) -> LimitedReplica:
        accounts = await ledger.open_accounts(f"replica-{len(replicas)}")
        admitted: list[Request] = []

        async def answer(request: Request) -> Response:
            return Response(200, b"{}")

        def handle(request: Request) -> Awaitable[Response | None] | None:
            admitted.append(request)
            return (respond or answer)(request)

        app = compose_http(handle, Limits(max_queue=10_000), SECRET, Authorization("digits"), accounts=accounts)
        server = HttpServer(app)
        replicas.append(LimitedReplica(server, await server.start("127.0.0.1"), accounts, admitted))
        return replicas[-1]

    yield start
    for replica in replicas:
        await replica.accounts.stop()
        await replica.server.drain(0)


def build_request(name: str = "acme/ci") -> bytes:
    """A request of a caller, as the edge sends it."""
    fields = (f"{SECRET_HEADER.decode()}: {SECRET}", f"{CALLER_HEADER.decode()}: {encode_caller(name)}")
    return encode_request("POST", PATH, b"{}", *fields)


async def send(connection: RawConnection, name: str = "acme/ci") -> RawResponse:
    """Send one request on a connection, and read its response."""
    await connection.send(build_request(name))
    return await connection.read_response()


async def send_once(port: int, name: str = "acme/ci") -> RawResponse:
    """Send one request on a connection of its own."""
    async with open_raw(port) as connection:
        return await send(connection, name)
