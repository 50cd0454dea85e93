"""Secrets are planted everywhere that takes one, and then looked for everywhere that should have none."""

import base64
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cluster.local import secrets
from cluster.local.running_cluster import Cluster, temp_dir
from cluster.settings import Settings
from deployments.client import AsyncClient, Client
from tests.conftest import ShoalCli, wait_until
from tests.e2e.canaries import find_canaries, read_command_lines
from training.settings import mask_passwords

PLANTED_KEY, PLANTED_PASSWORD = "planted-key-5f1c9e", "planted-password-a77d"
ROW = '{"inputs": [[5.1, 3.5, 1.4, 0.2]]}'
PYTHON = Path(sys.executable)
# What Ray's dashboard shows of processes, actors' arguments, runtime environments, jobs, and of Serve's configuration.
DASHBOARD_PATHS = (
    "/api/serve/applications/",
    "/api/jobs/",
    *(
        f"/api/v0/{name}?detail=1&limit=10000"
        for name in ("actors", "jobs", "nodes", "runtime_envs", "tasks", "workers")
    ),
    "/logical/actors",
    "/nodes?view=details",
    "/api/cluster_status",
    "/api/cluster_metadata",
    "/api/v0/cluster_metadata",
)


@pytest.fixture(scope="module")
def tenant_key(shoal: ShoalCli, serving_cluster: Cluster, http: httpx.Client) -> Iterator[str]:
    """A key of a tenant, shown once, and used on every way."""
    made = http.post("/api/v1/keys", json={"name": "planted", "tenant": "acme", "allow": "predict:*"}).json()
    key: str = made["key"]
    headers = {"Authorization": f"Bearer {key}"}
    for path in ("/v2/models/flowers/predict", "/api/v1/models/flowers/predict"):
        url = serving_cluster.url + path
        assert wait_until(lambda url=url: httpx.post(url, json=json.loads(ROW), headers=headers).is_success, 10)  # type: ignore[misc]
        assert httpx.post(url, json=json.loads(ROW), headers={"Authorization": f"Basic {key}"}).status_code == 401
    yield key
    http.delete(f"/api/v1/keys/{made['id']}")


@pytest.fixture(scope="module")
def said(shoal: ShoalCli, serving_cluster: Cluster, settings: Settings, tenant_key: str) -> list[str]:
    """Use every secret, right and wrong; returns all that commands and services said to it."""
    key = secrets.read_secret(settings.home, secrets.ADMIN_KEY)
    url, texts = serving_cluster.url, []
    basic = base64.b64encode(f"user:{PLANTED_KEY}".encode()).decode()
    for authorization in (f"Bearer {PLANTED_KEY}", f"Basic {basic}", PLANTED_KEY, f"Bearer {key}"):
        for path in ("/v2/models/flowers/predict", "/api/v1/models", "/docs", "/v2/models/nothing/infer", "/nowhere"):
            for method in ("GET", "POST"):
                response = httpx.request(
                    method,
                    url + path,
                    headers={"Authorization": authorization},
                    content=ROW if method == "POST" else None,
                )
                texts.append(f"{response.headers} {response.text}")
    for bad_key in (PLANTED_KEY, f"{PLANTED_KEY}\n", f" {PLANTED_KEY}", f"{PLANTED_KEY}\x00", "好" + PLANTED_KEY):
        for make in (Client, AsyncClient):
            try:
                client = make(url, bad_key)
                texts += [repr(client), str(client), repr(vars(client))]
                if isinstance(client, Client):
                    client.predict("flowers", [[5.1, 3.5, 1.4, 0.2]])
            except Exception as error:
                texts.append(f"{error!r} {error} {error.__cause__!r}")
    uri = f"postgresql+psycopg://shoal:{PLANTED_PASSWORD}@127.0.0.1:9/x"
    for variable in ("SHOAL_REGISTRY_URI", "SHOAL_PLATFORM_URI", "SHOAL_ARTIFACTS_URI"):
        for command in (["models"], ["settings"], ["settings", "--json"], ["status"], ["runs"]):
            result = shoal(*command, env={variable: uri})
            texts.append(result.stdout + result.stderr)
    for command in (
        ["status", "--json"],
        ["predict", "flowers", ROW],
        ["logs", "control"],
        ["logs", "flowers"],
        ["keys"],
        ["keys", "--json"],
    ):
        result = shoal(*command)
        texts.append(result.stdout + result.stderr)
    script = "import sys; from deployments.client import Client; Client(sys.argv[1], sys.argv[2]).models()"
    failed = subprocess.run([PYTHON, "-c", script, "http://127.0.0.1:9", PLANTED_KEY], capture_output=True, text=True)
    texts.append(failed.stderr)
    return texts


def list_secrets(settings: Settings, tenant_key: str = "") -> dict[str, str]:
    return {
        "a tenant's key": tenant_key or PLANTED_KEY,
        "the edge's secret": secrets.read_secret(settings.home, secrets.EDGE_SECRET),
        "the HMACs' key": secrets.read_secret(settings.home, secrets.KEY_PEPPER),
        "admin key": secrets.read_secret(settings.home, secrets.ADMIN_KEY),
        "Ray's token": secrets.read_secret(settings.home, secrets.RAY_TOKEN),
        "a wrong key": PLANTED_KEY,
        "a database's password": PLANTED_PASSWORD,
    }


def list_files(settings: Settings) -> Iterator[Path]:
    for folder in (settings.home, temp_dir(settings.home)):
        for file in folder.rglob("*"):
            # HAProxy puts the edge's secret into each request: its configuration, mode 0600, has it.
            is_allowed = file.parent == settings.home / "secrets" or file.match("edge/haproxy*.cfg")
            if file.is_file() and not file.is_symlink() and not is_allowed:
                yield file


def test_no_message_shows_a_secret(said: list[str], settings: Settings, tenant_key: str) -> None:
    assert len(said) > 60
    for name, secret in list_secrets(settings, tenant_key).items():
        shown = [text for text in said if secret in text]
        assert shown == [], name


def test_no_file_holds_a_secret_but_those_of_its_own(said: list[str], settings: Settings, tenant_key: str) -> None:
    """Logs of every process, HAProxy's configuration, Serve's and MLflow's state."""
    files = list(list_files(settings))
    assert any(file.suffix == ".err" for file in files)
    assert any(file.name == "registry.db" for file in files)
    for name, secret in list_secrets(settings, tenant_key).items():
        encoded = base64.b64encode(f"user:{secret}".encode())
        holding = [str(file) for file in files if any(text in file.read_bytes() for text in (secret.encode(), encoded))]
        assert holding == [], name


def test_the_edges_secret_is_in_a_file_of_this_user_alone(said: list[str], settings: Settings) -> None:
    files = list((temp_dir(settings.home) / "edge").glob("haproxy*.cfg"))
    assert files
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def test_no_command_line_shows_a_secret(said: list[str], settings: Settings, tenant_key: str) -> None:
    lines = list(read_command_lines(settings))
    assert len(lines) > 10
    assert find_canaries(lines, [secret.encode() for secret in list_secrets(settings, tenant_key).values()]) == []


def test_neither_the_dashboard_nor_any_page_or_metric_shows_a_secret(
    said: list[str], settings: Settings, tenant_key: str, serving_cluster: Cluster, http: httpx.Client
) -> None:
    pages = list(read_dashboard(settings, serving_cluster))
    for path in ("/openapi.json", "/docs", "/metrics", "/api/v1/models", "/api/v1/deployments", "/v2"):
        pages.append((path, http.get(path).content))

    assert any(b"flowers" in content for path, content in pages if "applications" in path)
    assert any(b"ServeReplica" in content for path, content in pages if "actors" in path)
    assert find_canaries(pages, [secret.encode() for secret in list_secrets(settings, tenant_key).values()]) == []


def test_the_registry_holds_no_secret_as_a_parameter_or_tag(
    said: list[str], settings: Settings, tenant_key: str
) -> None:
    with sqlite3.connect(settings.home / "registry.db") as database:
        dump = "\n".join(database.iterdump())
    for name, secret in list_secrets(settings, tenant_key).items():
        assert secret not in dump, name


def read_dashboard(settings: Settings, cluster: Cluster) -> Iterator[tuple[str, bytes]]:
    """What Ray's dashboard tells whoever has its token."""
    headers = {"Authorization": f"Bearer {secrets.read_secret(settings.home, secrets.RAY_TOKEN)}"}
    with httpx.Client(base_url=cluster.dashboard_url, headers=headers, trust_env=False, timeout=30) as client:
        for path in DASHBOARD_PATHS:
            yield path, client.get(path).content


def test_passwords_of_every_kind_of_uri_are_masked() -> None:
    for uri in (
        f"postgresql://u:{PLANTED_PASSWORD}@h/x",
        f"postgresql+psycopg://u:{PLANTED_PASSWORD}@h:5/x?a=b",
        f"s3://key:{PLANTED_PASSWORD}@bucket/x",
        f"text before http://u:{PLANTED_PASSWORD}@h/ and after",
        f"postgresql://u:a@{PLANTED_PASSWORD}@h/x",
        f"postgresql://h/x?user=u&password={PLANTED_PASSWORD}&sslmode=require",
        f"s3://bucket/x?secret_key={PLANTED_PASSWORD}",
    ):
        assert PLANTED_PASSWORD not in mask_passwords(uri)
    # A traceback keeps what is no password.
    plain = 'File "http://h:80/x"\n  raise ValueError\nsend@example'
    assert mask_passwords(plain) == plain
