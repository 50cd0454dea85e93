"""The commands of provenance, without a cluster."""

import json
from pathlib import Path

import pytest

from cluster.local.running_cluster import temp_dir
from cluster.request_lookup import find_request
from cluster.settings import Settings
from tests.conftest import ShoalCli
from training.bundle.manifest import PROVENANCE_FILE
from training.registry.model_registry import Registry
from training.settings import TrainingSettings


@pytest.fixture
def published(shoal: ShoalCli, table_bundle: Path) -> Path:
    """The folder of flowers:1 in the registry."""
    assert shoal("models", "import", str(table_bundle)).returncode == 0
    return stored(shoal)


def stored(shoal: ShoalCli) -> Path:
    report = json.loads(shoal("models", "verify", "flowers", "--json").stdout)
    return Path(report["bundle"].removeprefix("file://"))


def test_verification_ends_with_the_exit_code_of_what_it_found(shoal: ShoalCli, published: Path) -> None:
    unsigned = shoal("models", "verify", "flowers")
    files_alone = shoal("models", "verify", "flowers", "--trust", "any")
    signing = shoal("models", "sign", "flowers:1")
    signed = shoal("models", "verify", "flowers@champion")

    assert (unsigned.returncode, files_alone.returncode, signed.returncode) == (1, 0, 0)
    assert "not verified: no signature that counts: it is unsigned" in unsigned.stdout
    assert signing.stdout.startswith("signed flowers:1\n")
    assert "signed by this cluster (" in signed.stdout
    assert "imported by urn:shoal:cluster:" in signed.stdout

    (published / "example.json").write_text("{}")
    altered = shoal("models", "verify", "flowers", "--json")
    report = json.loads(altered.stdout)
    assert altered.returncode == 1
    assert [each["name"] for each in report["files"] if not each["matches"]] == ["example.json"]
    assert "example.json was altered" in report["problem"]
    assert report["signatures"][0]["statement"]["_type"] == "https://in-toto.io/Statement/v1"

    (published / "bundle.json").write_text("{}")
    assert shoal("models", "verify", "flowers").returncode == 1
    (published / PROVENANCE_FILE).write_text("nonsense")
    assert "is no DSSE envelope" in shoal("models", "verify", "flowers").stdout
    assert shoal("models", "verify", "nothing").returncode == 2


def test_a_key_is_handed_on_and_trusted(shoal: ShoalCli, tmp_path: Path) -> None:
    from tests.cluster.cli.conftest import make_in_process_cli

    other = make_in_process_cli(tmp_path / "other")
    (tmp_path / "key.pem").write_text(other("trust", "key").stdout)

    added = shoal("trust", "add", "team-a", str(tmp_path / "key.pem"))
    listed = json.loads(shoal("trust", "--json").stdout)

    assert added.returncode == 0, added.stderr
    assert [each["name"] for each in listed] == ["team-a"]
    assert shoal("trust", "remove", "team-a").returncode == 0
    assert json.loads(shoal("trust", "list", "--json").stdout) == []
    again = shoal("trust", "remove", "team-a")
    assert (again.returncode, again.stderr) == (2, "error: no trusted key 'team-a'; there are: none\n")
    changes = [(row["action"], row["target"], row["outcome"]) for row in json.loads(shoal("audit", "--json").stdout)]
    for action in ("trust.add", "trust.remove"):
        assert (action, "team-a", "succeeded") in changes


def test_an_answers_headers_lead_back_to_its_bundle(shoal: ShoalCli, published: Path) -> None:
    digest = json.loads((published / "bundle.json").read_text())["digest"]

    by_digest = shoal("trace", "--digest", digest[:12], "--json")
    by_version = shoal("trace", "--model", "flowers", "--version", "1")
    by_nodes = shoal("trace", "--nodes", "flowers:1,a-pipeline:2", "--json")

    (model,) = json.loads(by_digest.stdout)["models"]
    assert (model["model"], model["version"], model["digest"], model["signed"]) == ("flowers", 1, digest, False)
    assert digest in by_version.stdout
    assert [each["model"] for each in json.loads(by_nodes.stdout)["models"]] == ["flowers"]
    assert "no published version has the digest 'ffff'" in shoal("trace", "--digest", "ffff").stderr
    assert "no answer with request id 'r1' is recorded here" in shoal("trace", "r1").stderr
    assert shoal("trace").returncode == 2


def test_what_a_run_made_is_traced_to_it(
    shoal: ShoalCli, registry_settings: TrainingSettings, table_bundle: Path
) -> None:
    registry = Registry(registry_settings)
    run_id = registry.start_run("flowers-1", {"seed": 0}, recipe={"seed": 0})
    registry.publish(table_bundle, run_id)

    result = shoal("trace", "--model", "flowers", "--version", "1", "--json")

    (model,) = json.loads(result.stdout)["models"]
    assert model["run"]["id"] == run_id
    assert model["signature"].startswith("signed by this cluster (")
    assert model["statement"]["run"] == run_id
    assert model["statement"]["packages"] > 50


def test_a_request_is_found_in_the_log_of_the_edge_and_in_what_was_rotated(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    folder = temp_dir(settings.home) / "edge"
    folder.mkdir(parents=True)
    line = {"time_ms": 1_700_000_000_000, "request_id": "r1", "caller": "admin", "status": 200, "model": "a"}
    line |= {"version": "2", "digest": "d" * 64, "nodes": "-"}
    try:
        (folder / "access.log.1").write_text(json.dumps(line, separators=(",", ":")) + "\n{no json\n")
        other = line | {"request_id": "r2", "model": "-", "version": "-", "digest": "-", "status": 401}
        (folder / "access.log").write_text(json.dumps(other, separators=(",", ":")) + "\n")

        found, refused = find_request(settings, "r1"), find_request(settings, "r2")

        assert found is not None
        assert (found.model, found.version, found.digest, found.nodes) == ("a", "2", "d" * 64, ())
        assert (found.caller, found.status, found.time_s) == ("admin", 200, 1_700_000_000)
        assert refused is not None
        assert (refused.model, refused.status) == ("", 401)
        assert find_request(settings, "r") is None
    finally:
        (folder / "access.log").unlink()
        (folder / "access.log.1").unlink()
        folder.rmdir()
        folder.parent.rmdir()
