"""Secrets of an operator's environment: planted, used, made to fail, then looked for wherever something is written."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import trustme
from sqlalchemy import MetaData, create_engine, select

from cluster.local.running_cluster import require_cluster
from cluster.settings import Settings
from tests.conftest import ShoalCli, make_shoal_cli
from tests.e2e.canaries import find_canaries, read_files
from tests.e2e.test_secrets import read_dashboard
from tests.e2e.test_tls import write_certificate
from tests.postgres import connect, run_postgres
from tests.small_bundles import save_table

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1500)]
PASSWORD, WRONG = "planted-password-a77d0c", "planted-wrong-password-93b1"
PLANTED = {"AWS_SECRET_ACCESS_KEY": "planted-aws-secret-1f64", "AWS_SESSION_TOKEN": "planted-aws-session-88ab"}


@dataclass
class Planted:
    """A cluster whose databases have a password, whose edge has a private key, whose environment has credentials."""

    shoal: ShoalCli
    settings: Settings
    environment: dict[str, str]
    server: str
    canaries: list[bytes]
    shown: list[tuple[str, bytes]]

    def run(self, *arguments: str, **changes: str) -> int:
        """Run a command, and keep all that it says."""
        result = self.shoal(*arguments, env=self.environment | changes)
        self.shown.append((f"shoal {' '.join(arguments)}", (result.stdout + result.stderr).encode()))
        return result.returncode


@pytest.fixture
def planted(tmp_path: Path) -> Iterator[Planted]:
    with run_postgres() as server:
        with connect(server) as connection:
            connection.execute("CREATE DATABASE canaries")
            connection.execute(f"ALTER ROLE shoal PASSWORD '{PASSWORD}'")  # type: ignore[arg-type]
            # From now on a password is asked for.
            (Path(server) / "data" / "pg_hba.conf").write_text("local all all scram-sha-256\n")
            connection.execute("SELECT pg_reload_conf()")
        uri = f"postgresql+psycopg://shoal:{PASSWORD}@/canaries?host={server}"
        cert, key = write_certificate(trustme.CA().issue_cert("localhost"), tmp_path, "edge")
        environment = PLANTED | {
            "SHOAL_REGISTRY_URI": uri,
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
            "SHOAL_PLATFORM_URI": uri,
            "SHOAL_TLS_CERT": str(cert),
            "SHOAL_TLS_KEY": str(key),
        }
        home = tmp_path / "home"
        settings = Settings(
            home=home,
            http_port=0,
            grpc_port=0,
            dashboard_port=0,
            registry_uri=uri,
            platform_uri=uri,
            tls_cert=str(cert),
            tls_key=str(key),
        )
        # A line from the middle of the private key, which every copy of it has.
        key_line = key.read_bytes().splitlines()[3]
        canaries = [PASSWORD.encode(), WRONG.encode(), key_line, *(value.encode() for value in PLANTED.values())]
        cluster = Planted(make_shoal_cli(home), settings, environment, server, canaries, [])
        try:
            assert cluster.run("up") == 0, cluster.shown[-1]
            yield cluster
        finally:
            cluster.run("down")


def test_secrets_of_the_environment_are_shown_and_written_nowhere(planted: Planted, tmp_path: Path) -> None:
    save_table(tmp_path / "flowers")
    assert planted.run("models", "import", str(tmp_path / "flowers")) == 0, planted.shown[-1]
    assert planted.run("deploy", "flowers") == 0, planted.shown[-1]
    assert planted.run("train", "iris", "--set", "stop.epochs=1") == 0, planted.shown[-1]
    row = '{"inputs": [[5.1, 3.5, 1.4, 0.2]]}'
    for command in (["status"], ["status", "--json"], ["settings"], ["settings", "--json"], ["runs"], ["models"]):
        assert planted.run(*command) == 0, command
    assert planted.run("predict", "flowers", row) == 0, planted.shown[-1]
    planted.run("logs", "flowers")
    planted.run("history", "flowers")
    fail_in_the_middle(planted)

    command_lines = [
        (f"process {each.pid}", " ".join(each.info["cmdline"] or []).encode())
        for each in psutil.process_iter(["cmdline"])
    ]
    dashboard = list(read_dashboard(planted.settings, require_cluster(planted.settings)))
    assert any(b"flowers" in content for _, content in dashboard)
    contents = [*planted.shown, *command_lines, *dashboard, *dump_databases(planted.settings), *list_written(planted)]
    assert find_canaries(contents, planted.canaries) == []


def fail_in_the_middle(planted: Planted) -> None:
    """Commands with a wrong password, with databases and stores that are away, with a misspelled setting."""
    wrong = planted.environment["SHOAL_REGISTRY_URI"].replace(PASSWORD, WRONG)
    away = wrong.replace(planted.server, "/nowhere")
    odd = wrong.replace("postgresql+psycopg", "oddsql")
    for uri in (wrong, away, odd, f"https://u:{WRONG}@127.0.0.1:9"):
        assert planted.run("models", SHOAL_REGISTRY_URI=uri) != 0, uri
        assert planted.run("deploy", "flowers", SHOAL_PLATFORM_URI=uri) != 0, uri
    for command in (["status"], ["runs"], ["train", "iris"]):
        planted.run(*command, SHOAL_REGISTRY_URI=wrong, SHOAL_PLATFORM_URI=wrong)
    planted.run("models", SHOAL_ARTIFACTS_URI=f"s3://key:{WRONG}@bucket/x?scheme=http&endpoint_override=127.0.0.1:9")
    planted.run("status", SHOAL_PLATFROM_URI=wrong)
    planted.run("status", SHOAL_HTTP_PORT=WRONG)


def dump_databases(settings: Settings) -> Iterator[tuple[str, bytes]]:
    """Every row of every table: MLflow's, and those of the deployments."""
    engine = create_engine(settings.platform)
    tables = MetaData()
    tables.reflect(engine)
    assert {"params", "tags", "metrics"} <= set(tables.tables)
    with engine.connect() as connection:
        for name, table in tables.tables.items():
            yield f"table {name}", "\n".join(str(tuple(row)) for row in connection.execute(select(table))).encode()
    engine.dispose()


def list_written(planted: Planted) -> Iterator[tuple[str, bytes]]:
    """Every file of the cluster, and the server's log, less the edge's copy of its certificate, which HAProxy reads."""
    with suppress(FileNotFoundError):
        for place, content in read_files(planted.settings):
            if Path(place).name == "certificate.pem":
                assert Path(place).stat().st_mode & 0o777 == 0o600
                continue
            yield place, content
