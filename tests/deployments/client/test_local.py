"""The Python client on the machine of its cluster."""

from pathlib import Path

import pytest

from cluster.local.record import Cluster, write_record
from cluster.local.secrets import ADMIN_KEY, ensure_secret
from deployments.client import Client
from deployments.server.asgi import Scope, get_header
from tests.deployments.local_server import Reply, make_app, run_server
from training.errors import UserError


def test_without_arguments_it_calls_this_machines_cluster_with_its_admin_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[str | None] = []

    def handler(path: str, body: bytes, scope: Scope) -> Reply:
        keys.append((get_header(scope, b"authorization") or b"").decode())
        return 200, b'{"predictions": [1]}', []

    monkeypatch.setenv("SHOAL_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"no cluster runs from .*`shoal up`"):
        Client()
    with run_server(make_app(handler)) as url:
        port = int(url.rpartition(":")[2])
        write_record(tmp_path, Cluster(1, port, 2, 3, "127.0.0.1", {}))
        with pytest.raises(UserError, match=r"no API key was given, and .*admin_key cannot be read"):
            Client()
        key = ensure_secret(tmp_path, ADMIN_KEY)
        with Client() as client:
            client.predict("flowers", [1])

    assert keys == [f"Bearer {key}"]
