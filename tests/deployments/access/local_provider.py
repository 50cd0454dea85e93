"""An identity provider in this process: its discovery document, its keys, and tokens that it signs."""

import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from deployments.server.http_server import HttpServer
from deployments.server.middleware import HttpApp
from deployments.server.request import Request, Response
from deployments.settings import OidcSettings, ServingSettings

AUDIENCE = "https://shoal.example.com"
Key = RSAKey | ECKey | OKPKey
# Made once: a key of RSA takes a second.
KEYS: dict[str, Key] = {
    "RS256": RSAKey.generate_key(2048, {"kid": "rsa"}),
    "ES256": ECKey.generate_key("P-256", {"kid": "ec"}),
    "EdDSA": OKPKey.generate_key("Ed25519", {"kid": "ed"}),
}


def encode(content: bytes | dict[str, Any]) -> str:
    """One part of a token."""
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def sign(signed: str, key: Key) -> bytes:
    """The signature of a token's first two parts."""
    models = {RSAKey: "RS256", ECKey: "ES256", OKPKey: "Ed25519"}
    return JWSRegistry.algorithms[models[type(key)]].sign(signed.encode(), key)


def publish(key: Key) -> dict[str, Any]:
    """A key as a provider publishes it."""
    return dict(key.as_dict(private=False))


class LocalProvider:
    """A provider, which answers at `issuer`."""

    def __init__(self) -> None:
        self.issuer = ""
        self.keys: list[Any] = [publish(key) for key in KEYS.values()]
        # By path, instead of the usual ones.
        self.responses: dict[str, Response] = {}
        self.fetches: list[str] = []
        self._server = HttpServer(HttpApp(self._answer, (), 1000))

    async def start(self, port: int = 0) -> None:
        """Listen."""
        self.issuer = f"http://127.0.0.1:{await self._server.start('127.0.0.1', port)}"

    async def stop(self) -> None:
        """Be away."""
        await self._server.drain(0)

    async def _answer(self, request: Request) -> Response:
        self.fetches.append(request.path)
        if request.path in self.responses:
            return self.responses[request.path]
        document = {"issuer": self.issuer, "jwks_uri": f"{self.issuer}/jwks"}
        content = {"/jwks": {"keys": self.keys}, "/.well-known/openid-configuration": document}
        return Response(200, json.dumps(content[request.path]).encode())

    def build_claims(self, **changes: Any) -> dict[str, Any]:
        """The claims of a valid token; those that are changed to None are left out."""
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 300, "groups": ["ml"]}
        return {name: value for name, value in (claims | changes).items() if value is not None}

    def build_token(
        self,
        algorithm: str = "RS256",
        header: dict[str, Any] | None = None,
        key: Key | None = None,
        payload: bytes | None = None,
        **claims: Any,
    ) -> str:
        """Sign a token.

        Args:
            algorithm: whose key signs it.
            header: fields that are changed; those that are None are left out.
            key: that signs it; the provider's by default.
            payload: instead of claims.
            claims: that are changed.
        """
        key = key or KEYS[algorithm]
        fields = {"alg": algorithm, "kid": key.kid, "typ": "at+jwt"} | (header or {})
        fields = {name: value for name, value in fields.items() if value is not None}
        signed = f"{encode(fields)}.{encode(payload or self.build_claims(**claims))}"
        return f"{signed}.{encode(sign(signed, key))}"

    def build_settings(self, home: Any = None, **oidc: Any) -> ServingSettings:
        """Settings of a service that takes this provider's tokens."""
        oidc = {"scopes": "ml=predict:*; ops=admin", "clock_skew_s": 0} | oidc
        fields = {} if home is None else {"home": home}
        return ServingSettings(
            oidc_issuer=self.issuer, oidc_audience=AUDIENCE, oidc=OidcSettings.model_validate(oidc), **fields
        )


@contextlib.asynccontextmanager
async def run_provider() -> AsyncIterator[LocalProvider]:
    provider = LocalProvider()
    await provider.start()
    try:
        yield provider
    finally:
        await provider.stop()
