"""Identity provider: finds its public keys by OpenID Connect's discovery, and keeps them as it does.

Request walk: tokens.py -> [identity_provider.py] -> json_web_keys.py
https://openid.net/specs/openid-connect-discovery-1_0.html
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import httpx

from deployments.access.sso.claim_rules import check_issuer
from deployments.access.sso.json_web_keys import KeySet, PublicKey, parse_key_set
from deployments.access.sso.strict_json import parse_strict_json
from deployments.errors import Unavailable

_DISCOVERY_PATH = "/.well-known/openid-configuration"
_TIMEOUT_S, _MAX_BYTES = 5.0, 512 * 1024
# A token of an unknown key has the keys fetched again; so often at most, however many there are.
MIN_REFETCH_S = 10.0
# After a failure, doubled up to the last.
_MIN_RETRY_S, _MAX_RETRY_S = 1.0, 30.0
_UNAVAILABLE = "tokens cannot be verified now, their provider does not answer; try again shortly, or send an API key"
logger = logging.getLogger(__name__)


class IdentityProvider:
    """A provider's public keys."""

    def __init__(
        self, issuer: str, refresh_s: float, max_outage_s: float, on_withdrawn: Callable[[], None] = lambda: None
    ) -> None:
        """Make a provider without keys; they come with the first token, or with `run`.

        Args:
            issuer: URL, as its tokens have it.
            refresh_s: after which keys are fetched again.
            max_outage_s: for which they are good while it does not answer.
            on_withdrawn: called where a key is good no longer.
        """
        self._issuer, self._refresh_s, self._max_outage_s = issuer, refresh_s, max_outage_s
        self._on_withdrawn = on_withdrawn
        self._keys = KeySet()
        self._fetched_s = self._attempted_s = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Keep the keys."""
        retry_s = _MIN_RETRY_S
        while True:
            await self._refetch()
            if self._is_fresh():
                retry_s, wait_s = _MIN_RETRY_S, self._refresh_s
            else:
                retry_s, wait_s = min(2 * retry_s, _MAX_RETRY_S), min(retry_s, self._refresh_s)
            await asyncio.sleep(wait_s)
            if self._keys.keys and time.monotonic() - self._fetched_s > self._max_outage_s:
                logger.error("the identity provider has not answered for %.0f s: no token is taken", self._max_outage_s)
                self._set_keys(KeySet())

    async def find_key(self, kid: str | None, algorithm: str) -> PublicKey | None:
        """The key that a token must be signed with; None for none.

        Raises:
            Unavailable: no key is known at all.
        """
        key = self._keys.find(kid, algorithm)
        if key is None and (self._fetching or time.monotonic() - self._attempted_s > MIN_REFETCH_S):
            await self._refetch()
            key = self._keys.find(kid, algorithm)
        if not self._keys.keys:
            raise Unavailable(_UNAVAILABLE)
        return key

    def _is_fresh(self) -> bool:
        return self._fetched_s >= self._attempted_s

    async def _refetch(self) -> None:
        """Fetch once for all who wait; whoever leaves does not end it for the others."""
        if self._fetching is None:
            self._attempted_s = time.monotonic()
            self._fetching = asyncio.get_running_loop().create_task(self._fetch())
        await asyncio.shield(self._fetching)

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                keys = await self._fetch_keys()
            self._fetched_s = time.monotonic()
            self._set_keys(keys)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            logger.warning("the identity provider's keys cannot be fetched: %s: %s", type(error).__name__, error)
        finally:
            self._fetching = None

    async def _fetch_keys(self) -> KeySet:
        # Redirects are not followed: keys come from the address that the provider itself names.
        async with httpx.AsyncClient(follow_redirects=False, timeout=_TIMEOUT_S) as http:
            document = await _fetch_json(http, self._issuer.rstrip("/") + _DISCOVERY_PATH)
            if not isinstance(document, dict) or document.get("issuer") != self._issuer:
                raise ValueError(f"the document of {self._issuer} has another issuer; write SHOAL_OIDC_ISSUER like it")
            address = document.get("jwks_uri")
            if not isinstance(address, str):
                raise ValueError("the provider's document has no jwks_uri")
            check_issuer(address.partition("?")[0])
            return parse_key_set(await _fetch_json(http, address))

    def _set_keys(self, keys: KeySet) -> None:
        withdrawn = self._keys.fingerprints - keys.fingerprints
        self._keys = keys
        if withdrawn:
            logger.info("the identity provider has withdrawn %d of its keys", len(withdrawn))
            self._on_withdrawn()


async def _fetch_json(http: httpx.AsyncClient, url: str) -> Any:
    content = bytearray()
    async with http.stream("GET", url, headers={"accept": "application/json"}) as response:
        if response.status_code != 200:
            raise ValueError(f"{url} answered with status {response.status_code}")
        async for part in response.aiter_bytes():
            content += part
            if len(content) > _MAX_BYTES:
                raise ValueError(f"{url} has more than {_MAX_BYTES} bytes")
    return parse_strict_json(bytes(content))
