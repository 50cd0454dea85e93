"""A real OpenID Connect provider, npm's oidc-provider, in a process of its own."""

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from joserfc.jwk import ECKey, OKPKey, RSAKey

from tests.deployments.access.local_provider import AUDIENCE
from tests.deployments.edge.local_edge import find_port

PACKAGE = "oidc-provider@9.13.3"
SCRIPT = Path(__file__).with_name("oidc_provider.mjs")

needs_node = pytest.mark.skipif(shutil.which("npm") is None, reason="the provider needs node and npm")


def generate_keys(suffix: str) -> list[dict[str, Any]]:
    """A private key of each type."""
    keys = [
        RSAKey.generate_key(2048, {"kid": f"rsa-{suffix}", "use": "sig"}),
        ECKey.generate_key("P-256", {"kid": f"ec-{suffix}", "use": "sig"}),
        OKPKey.generate_key("Ed25519", {"kid": f"ed-{suffix}", "use": "sig"}),
    ]
    return [dict(key.as_dict(private=True)) for key in keys]


@dataclass
class RealProvider:
    """The provider; another process with other keys takes its place."""

    folder: Path
    port: int
    _process: subprocess.Popen[str] | None = field(default=None)

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, keys: list[dict[str, Any]]) -> None:
        """Answer with these keys, and sign with the first of a type."""
        self.stop()
        process = self._process = subprocess.Popen(
            ["node", str(SCRIPT), str(self.port), AUDIENCE],
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps({"keys": keys}))
        process.stdin.close()
        assert process.stdout.readline() == "ready\n"

    def stop(self) -> None:
        """Be away."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def fetch_token(self, algorithm: str, group: str = "ml-team", resource: str = AUDIENCE) -> str:
        """Get a token as a service does, by its client credentials."""
        form = {"grant_type": "client_credentials", "resource": resource, "scope": "predict"}
        response = httpx.post(
            f"{self.issuer}/token", data=form, auth=(f"{algorithm}.{group}", "secret"), trust_env=False, timeout=30
        )
        assert response.status_code == 200, response.text
        return str(response.json()["access_token"])


@contextlib.contextmanager
def run_real_provider(folder: Path) -> Iterator[RealProvider]:
    (folder / "package.json").write_text("{}")
    subprocess.run(["npm", "install", "--no-audit", "--no-fund", PACKAGE], cwd=folder, check=True, timeout=300)
    provider = RealProvider(folder, find_port())
    provider.start(generate_keys("first"))
    try:
        yield provider
    finally:
        provider.stop()
