"""A deploy after one that was killed: what the killed one wanted is undone first; Ray's dashboard is a stand-in."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from cluster.local import secrets
from cluster.local.running_cluster import Cluster
from cluster.rollout.deploy import deploy
from cluster.settings import Settings
from deployments.specs.model_deployment import ModelDeployment, ModelEndpoint, Scale
from deployments.state.store import DeploymentStore
from training.errors import UserError
from training.registry.entities import Version


class Dashboard(BaseHTTPRequestHandler):
    """One node of 8 CPUs; Serve runs whatever it was told last."""

    applications: ClassVar[dict[str, Any]] = {}

    def do_PUT(self) -> None:
        config = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).applications = {a["name"]: {"status": "RUNNING", "config": a} for a in config["applications"]}
        self._answer({})

    def do_GET(self) -> None:
        if self.path.startswith("/api/v0/nodes"):
            self._answer({"data": {"result": {"result": [{"state": "ALIVE", "resources_total": {"CPU": 8.0}}]}}})
        else:
            self._answer({"applications": self.applications})

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    Dashboard.applications = {}
    with ThreadingHTTPServer(("127.0.0.1", 0), Dashboard) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Cluster(
            gcs_port=1,
            http_port=2,
            grpc_port=3,
            dashboard_port=server.server_port,
            client_host="127.0.0.1",
            shared_settings={},
            head="",
        )
        server.shutdown()


def make_settings(home: Path) -> Settings:
    secrets.ensure_secret(home, secrets.RAY_TOKEN)
    return Settings(home=home)


def make_version(number: int) -> Version:
    return Version(name="m", version=number, run_id="", digest="d", uri="/m", created_s=0, aliases=())


def make_deployment(number: int, scale: Scale) -> ModelDeployment:
    return ModelDeployment(endpoint=ModelEndpoint(name="m", version=number, digest="d", uri="/m"), scale=scale)


def test_a_scale_that_a_killed_deploy_wanted_is_not_inherited(tmp_path: Path, cluster: Cluster) -> None:
    settings = make_settings(tmp_path)
    store = DeploymentStore(settings.platform)
    store.put_record(make_deployment(1, Scale(max_replicas=2)))
    store.begin_rollout({"m": make_deployment(2, Scale(cpus=7, max_replicas=5))})  # and no end

    deployed = deploy(settings, cluster, make_version(3), lambda status: None, scale={"target_ongoing_requests": 4})

    assert deployed.scale == Scale(max_replicas=2, target_ongoing_requests=4)
    assert store.list_records() == [deployed]
    assert store.find_open_rollout() == []


def test_what_fits_no_node_is_refused_and_leaves_what_serves(tmp_path: Path, cluster: Cluster) -> None:
    settings = make_settings(tmp_path)
    first = deploy(settings, cluster, make_version(1), lambda status: None)

    with pytest.raises(UserError, match=r"needs 100 CPU, and no node has so much \(8 CPU, 0 GPU\)"):
        deploy(settings, cluster, make_version(2), lambda status: None, scale={"cpus": 100})

    assert DeploymentStore(settings.platform).list_records() == [first]
    assert Dashboard.applications["m"]["config"]["args"]["endpoint"]["version"] == 1
