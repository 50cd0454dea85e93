"""Secrets are planted everywhere that takes one, and then looked for everywhere that should have none."""

import base64
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from cluster.local import processes, secrets
from cluster.local.running_cluster import Cluster, cluster_id, temp_dir
from cluster.settings import Settings
from deployments.client import AsyncClient, Client
from tests.conftest import ShoalCli
from training.settings import mask_passwords

PLANTED_KEY, PLANTED_PASSWORD = "planted-key-5f1c9e", "planted-password-a77d"
ROW = '{"inputs": [[5.1, 3.5, 1.4, 0.2]]}'
PYTHON = Path(sys.executable)


@pytest.fixture(scope="module")
def said(shoal: ShoalCli, serving_cluster: Cluster, settings: Settings) -> list[str]:
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
    for command in (["status", "--json"], ["predict", "flowers", ROW], ["logs", "control"], ["logs", "flowers"]):
        result = shoal(*command)
        texts.append(result.stdout + result.stderr)
    script = "import sys; from deployments.client import Client; Client(sys.argv[1], sys.argv[2]).models()"
    failed = subprocess.run([PYTHON, "-c", script, "http://127.0.0.1:9", PLANTED_KEY], capture_output=True, text=True)
    texts.append(failed.stderr)
    return texts


def list_secrets(settings: Settings) -> dict[str, str]:
    return {
        "admin key": secrets.read_secret(settings.home, secrets.ADMIN_KEY),
        "Ray's token": secrets.read_secret(settings.home, secrets.RAY_TOKEN),
        "a wrong key": PLANTED_KEY,
        "a database's password": PLANTED_PASSWORD,
    }


def list_files(settings: Settings) -> Iterator[Path]:
    for folder in (settings.home, temp_dir(settings.home)):
        for file in folder.rglob("*"):
            if file.is_file() and not file.is_symlink() and file.parent != settings.home / "secrets":
                yield file


def test_no_message_shows_a_secret(said: list[str], settings: Settings) -> None:
    assert len(said) > 60
    for name, secret in list_secrets(settings).items():
        shown = [text for text in said if secret in text]
        assert shown == [], name


def test_no_file_holds_a_secret_but_those_of_its_own(said: list[str], settings: Settings) -> None:
    """Logs of every process, HAProxy's configuration, Serve's and MLflow's state."""
    files = list(list_files(settings))
    assert any(file.suffix == ".err" for file in files)
    assert any(file.name == "registry.db" for file in files)
    for name, secret in list_secrets(settings).items():
        encoded = base64.b64encode(f"user:{secret}".encode())
        holding = [str(file) for file in files if any(text in file.read_bytes() for text in (secret.encode(), encoded))]
        assert holding == [], name


def test_no_command_line_shows_a_secret(said: list[str], settings: Settings) -> None:
    owned = processes.find_owned(cluster_id(settings.home), temp_dir(settings.home))
    lines = [" ".join(process.cmdline()) for process in owned if process.status() != psutil.STATUS_ZOMBIE]
    assert len(lines) > 10
    for name, secret in list_secrets(settings).items():
        assert [line for line in lines if secret in line] == [], name


def test_the_registry_holds_no_secret_as_a_parameter_or_tag(said: list[str], settings: Settings) -> None:
    with sqlite3.connect(settings.home / "registry.db") as database:
        dump = "\n".join(database.iterdump())
    for name, secret in list_secrets(settings).items():
        assert secret not in dump, name


def test_passwords_of_every_kind_of_uri_are_masked() -> None:
    for uri in (
        f"postgresql://u:{PLANTED_PASSWORD}@h/x",
        f"postgresql+psycopg://u:{PLANTED_PASSWORD}@h:5/x?a=b",
        f"s3://key:{PLANTED_PASSWORD}@bucket/x",
        f"text before http://u:{PLANTED_PASSWORD}@h/ and after",
    ):
        assert PLANTED_PASSWORD not in mask_passwords(uri)
