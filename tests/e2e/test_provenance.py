"""Provenance on a real cluster: what is unsigned is refused, and an answer's headers lead back to its bundle."""

import json
from pathlib import Path

import grpc
import httpx
import pytest

from cluster.local import secrets
from cluster.local.running_cluster import Cluster, require_cluster
from cluster.settings import Settings
from deployments.protocols.grpc import messages
from deployments.state.store import DeploymentStore
from tests.conftest import ShoalCli, make_shoal_cli
from tests.deployments.control.grpc_calls import infer_request
from tests.small_bundles import save_table
from training.registry.model_registry import Registry

ROWS = {"inputs": [[5.1, 3.5, 1.4, 0.2]]}
TENSORS = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2]}]}


def test_every_way_to_a_model_says_which_bundle_answered(
    http: httpx.Client, shoal: ShoalCli, serving_cluster: Cluster, settings: Settings
) -> None:
    record = DeploymentStore(settings.platform).get_record("flowers")
    assert record is not None
    deployed = Registry(settings).get_version("flowers", record.endpoint.version)
    expected = {
        "x-shoal-model": "flowers",
        "x-shoal-version": str(deployed.version),
        "x-shoal-digest": deployed.digest,
    }
    key = secrets.read_secret(settings.home, secrets.ADMIN_KEY)

    responses = [
        http.post("/v2/models/flowers/predict", json=ROWS),
        http.post("/v2/models/flowers/infer", json=TENSORS),
        http.post("/api/v1/models/flowers/predict", json=ROWS),
        http.post("/v2/models/flowers/predict", json={"inputs": []}),
    ]
    with grpc.insecure_channel(serving_cluster.grpc_address) as channel:
        infer = channel.unary_unary(
            f"/{messages.SERVICE_NAME}/ModelInfer", request_serializer=lambda message: message.SerializeToString()
        )
        metadata = (("authorization", f"Bearer {key}"), ("x-request-id", "r1"))
        _, call = infer.with_call(infer_request(), metadata=metadata, timeout=20)

    assert [response.status_code for response in responses] == [200, 200, 200, 422]
    for response in responses:
        assert expected.items() <= dict(response.headers).items()
        assert response.headers["x-request-id"]
    assert (expected | {"x-request-id": "r1"}).items() <= dict(call.initial_metadata()).items()
    traced = json.loads(shoal("trace", "--digest", responses[0].headers["x-shoal-digest"], "--json").stdout)
    assert traced["models"][0]["bundle"] == deployed.uri


def test_a_deployment_that_asks_for_a_signature_is_refused_where_there_is_none(
    shoal: ShoalCli, serving_cluster: Cluster, settings: Settings, tmp_path: Path
) -> None:
    save_table(tmp_path / "bundle", name="vouched", summary="Nobody knows where it is from.")
    version = Registry(settings).publish(tmp_path / "bundle")

    refused = shoal("deploy", str(version), "--trust", "signed")

    assert refused.returncode == 2
    assert f"error: {version} may not be deployed where trust is 'signed': it is unsigned" in refused.stderr
    assert DeploymentStore(settings.platform).list_revisions("vouched") == []


@pytest.mark.soak
def test_a_cluster_that_requires_signatures_starts_no_replica_without_one(tmp_path: Path) -> None:
    """A record that was written past the commands is caught by the replica, whose keys come from the head."""
    home = tmp_path / "home"
    lenient, strict = make_shoal_cli(home), {"SHOAL_TRUST": "signed", "SHOAL_EDGE__ACCESS_LOG": "true"}
    save_table(tmp_path / "bundle")
    assert lenient("models", "import", str(tmp_path / "bundle")).returncode == 0
    try:
        assert lenient("up").returncode == 0
        assert lenient("deploy", "flowers", "--cpus", "0.5").returncode == 0
        assert lenient("down").returncode == 0

        refused = lenient("up", env=strict)
        assert refused.returncode == 0, refused.stderr
        reason = "flowers does not start: flowers:1 may not be deployed where trust is 'signed': it is unsigned"
        assert reason in refused.stderr
        mismatch = lenient("deploy", "flowers")
        assert mismatch.returncode == 2
        assert "SHOAL_TRUST" in mismatch.stderr

        assert lenient("models", "sign", "flowers", env=strict).returncode == 0
        # Serve does not try an unchanged configuration again.
        assert lenient("undeploy", "flowers", env=strict).returncode == 0
        deployed = lenient("deploy", "flowers", "--cpus", "0.5", env=strict)
        assert deployed.returncode == 0, deployed.stderr
        assert lenient("predict", "flowers", json.dumps(ROWS), env=strict).returncode == 0
        url = require_cluster(Settings(home=home, trust="signed")).url
        key = secrets.read_secret(home, secrets.ADMIN_KEY)
        headers = {"Authorization": f"Bearer {key}", "x-request-id": "to-be-traced"}
        assert httpx.post(f"{url}/v2/models/flowers/predict", json=ROWS, headers=headers).status_code == 200
        traced = json.loads(lenient("trace", "to-be-traced", "--json", env=strict).stdout)
        assert (traced["status"], traced["caller"], traced["models"][0]["signed"]) == (200, "default/admin", True)
    finally:
        lenient("down")
