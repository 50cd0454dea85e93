"""A model that sleeps: its replica stops while nobody calls, and all who call first are answered."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import httpx
import pytest

from cluster.local import secrets
from cluster.local.running_cluster import Cluster
from cluster.rollout.deploy import deploy, deploy_pipeline
from cluster.rollout.status import StatusClient
from cluster.settings import Settings
from deployments.control.summary import count_running_replicas
from deployments.pipelines import ModelNode, Pipeline
from deployments.protocols.grpc import messages
from deployments.specs.model_deployment import Scale
from deployments.specs.pipeline import PipelineScale
from tests.conftest import fetch_applications, open_http, wait_until
from tests.deployments.control.grpc_calls import infer_request
from tests.small_bundles import save_table
from training.registry.model_registry import Registry

NAME, PIPELINE = "sleeper", "dreamer"
DELAYS = {"downscale_delay_s": 0.0, "downscale_to_zero_delay_s": 6.0}
BODY = {"inputs": [[5.1, 3.5, 1.4, 0.2]]}
CALLERS = 40


@pytest.fixture(scope="module")
def sleeper(settings: Settings, serving_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that sleeps after 6 s without a call, and a pipeline of it that never does."""
    folder = tmp_path_factory.mktemp("bundles") / NAME
    save_table(folder, name=NAME)
    scale = Scale(min_replicas=0, max_replicas=2, cpus=0.1, **DELAYS)
    deploy(settings, serving_cluster, Registry(settings).publish(folder), lambda status: None, scale=scale)
    pipeline = Pipeline(name=PIPELINE, root=ModelNode(model=NAME), scale=PipelineScale(cpus=0.1))
    deploy_pipeline(settings, serving_cluster, pipeline, lambda status: None)
    return NAME


def wait_until_asleep(settings: Settings, cluster: Cluster) -> None:
    def is_asleep() -> bool:
        application = fetch_applications(settings, cluster)[NAME]
        return not application["deployments"]["replica"]["replicas"] and application["status"] == "RUNNING"

    assert wait_until(is_asleep, 60)


def test_a_model_sleeps_and_all_first_calls_are_answered(
    settings: Settings, serving_cluster: Cluster, sleeper: str, http: httpx.Client
) -> None:
    assert http.post(f"/v2/models/{sleeper}/predict", json=BODY).status_code == 200
    wait_until_asleep(settings, serving_cluster)

    # Asking does not wake it.
    path = f"/v2/models/{sleeper}"
    assert http.get(f"{path}/ready").json() == {"name": sleeper, "ready": True}
    assert http.get(path).json()["versions"] == ["1"]
    assert http.get(f"{path}/versions/2").status_code == 404
    assert http.get(f"{path}/example").json()["inputs"]
    assert http.get("/v2/health/ready").status_code == 200
    with StatusClient(settings, serving_cluster) as client:
        (status,) = [each for each in client.fetch().deployments if each.name == sleeper]
    assert (status.status, status.replicas, status.reason) == ("ASLEEP", 0, "")
    models = http.get("/api/v1/models").json()["models"]
    assert next(each for each in models if each["name"] == sleeper)["status"] == "ASLEEP"
    assert count_running_replicas(fetch_applications(settings, serving_cluster)[sleeper]) == 0

    def call(index: int) -> int:
        with open_http(settings, serving_cluster) as caller:
            address = f"/api/v1/models/{sleeper}/predict" if index % 4 == 0 else f"{path}/predict"
            return caller.post(address, json=BODY).status_code

    with ThreadPoolExecutor(CALLERS) as pool:
        statuses = list(pool.map(call, range(CALLERS)))
    assert statuses == [200] * CALLERS


@pytest.mark.soak
def test_a_grpc_caller_in_a_hurry_wakes_it_for_the_node_of_a_pipeline(
    settings: Settings, serving_cluster: Cluster, sleeper: str, http: httpx.Client
) -> None:
    wait_until_asleep(settings, serving_cluster)
    metadata = (("authorization", f"Bearer {secrets.read_secret(settings.home, secrets.ADMIN_KEY)}"),)

    with grpc.insecure_channel(serving_cluster.grpc_address) as channel:

        def call(method: str, request: Any, **options: Any) -> Any:
            stub = channel.unary_unary(
                f"/{messages.SERVICE_NAME}/{method}",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=getattr(messages, f"{method}Response").FromString,
            )
            return stub(request, metadata=metadata, **options)

        assert call("ModelReady", messages.ModelReadyRequest(name=sleeper)).ready
        assert call("ModelMetadata", messages.ModelMetadataRequest(name=sleeper)).versions == ["1"]
        assert count_running_replicas(fetch_applications(settings, serving_cluster)[sleeper]) == 0
        with pytest.raises(grpc.RpcError) as refused:
            call("ModelInfer", infer_request(model_name=sleeper), timeout=0.5)
        assert refused.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)

    assert wait_until(lambda: count_running_replicas(fetch_applications(settings, serving_cluster)[sleeper]) == 1, 60)
    wait_until_asleep(settings, serving_cluster)
    assert http.post(f"/v2/models/{PIPELINE}/predict", json=BODY).status_code == 200
