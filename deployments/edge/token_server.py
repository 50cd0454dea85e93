"""Token server: answers HAProxy on a Unix socket who sends a token that it does not know yet.

Request walk: HAProxy -> [token_server.py] -> deployments.access.sso.tokens
HAProxy keeps the answer in a map until the token expires (verify_token.lua): a later request costs what one with a key
does. The file of the map names a generation; with a new one all tokens are verified anew, in every process of HAProxy.
"""

import asyncio
import time
from pathlib import Path

from deployments.access.sso.identity_provider import IdentityProvider
from deployments.access.sso.tokens import MAX_TOKEN_BYTES, TokenVerifier
from deployments.edge.haproxy import write_private
from deployments.errors import ClientError
from deployments.server.http_server import HttpServer
from deployments.server.middleware import HttpApp
from deployments.server.request import Request, Response
from deployments.settings import ServingSettings

_TEXT = b"text/plain"
_NO_TENANT = "the token is valid and its claims name no tenant of this service; ask who runs it"
_NO_SCOPE = "the token is valid and its claims allow nothing here; ask who runs the service for a group that does"


class TokenServer:
    """Verifies tokens for one edge."""

    def __init__(self, settings: ServingSettings, socket: Path, tokens_file: Path) -> None:
        """Make a server; it listens after `start`.

        Args:
            settings: of the service.
            socket: where HAProxy asks; in a folder of this user alone, so that nobody else can.
            tokens_file: the map's.
        """
        self.verified = 0
        self._socket, self._tokens_file = socket, tokens_file
        self._max_age_s = settings.oidc.max_outage_s
        self._generation = str(time.time_ns())
        oidc = settings.oidc
        self._provider = IdentityProvider(
            settings.oidc_issuer, oidc.jwks_refresh_s, oidc.max_outage_s, self._begin_generation
        )
        self._verifier = TokenVerifier(settings, self._provider)
        self._server = HttpServer(HttpApp(self._answer, (), MAX_TOKEN_BYTES))
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen, and keep the provider's keys."""
        self._write_generation()
        await self._server.start_local(str(self._socket))
        self._task = asyncio.get_running_loop().create_task(self._provider.run())

    async def close(self) -> None:
        """Stop listening."""
        if self._task:
            self._task.cancel()
        await self._server.drain(0)

    async def _answer(self, request: Request) -> Response:
        """Answer with generation, time of expiry and caller, or with why there is none, as text.

        Who may do nothing is named in the answer, for the audit log.
        """
        self.verified += 1
        generation = self._generation
        try:
            caller = await self._verifier.verify(request.body.decode("latin-1"))
        except ClientError as error:
            return Response(error.status, error.message.encode(), _TEXT)
        if not caller.scopes:
            return Response(403, f"{caller.name} {_NO_SCOPE if caller.tenant else _NO_TENANT}".encode(), _TEXT)
        # While this process is away, nobody learns of a key that the provider withdraws.
        until_s = min(caller.expires_s, time.time() + self._max_age_s)
        return Response(200, f"{generation} {int(until_s)} {caller.encode()}".encode(), _TEXT)

    def _begin_generation(self) -> None:
        self._generation = str(time.time_ns())
        self._write_generation()

    def _write_generation(self) -> None:
        write_private(self._tokens_file, f"# {self._generation}\n")
