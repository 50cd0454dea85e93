"""Limits on a real cluster: each way to a model draws on one budget, and a tenant's keys on one together."""

import json
import time
from collections.abc import Callable
from typing import Any

import grpc
import httpx
import pytest

from cluster.local.running_cluster import Cluster
from cluster.rollout.deploy import deploy_pipeline
from cluster.settings import Settings
from deployments.pipelines import FanOut, ModelNode, Pipeline
from deployments.protocols.grpc import messages
from tests.conftest import ShoalCli, wait_until

BODY = {"inputs": [{"length": 5.1, "width": 3.5, "height": 1.4, "weight": 0.2}]}


@pytest.fixture(scope="module")
def twice(settings: Settings, serving_cluster: Cluster) -> str:
    """A pipeline that calls `flowers` two times."""
    pipeline = Pipeline(
        name="twice",
        summary="Twice.",
        root=FanOut(nodes={"one": ModelNode(model="flowers"), "two": ModelNode(model="flowers")}),
    )
    deploy_pipeline(settings, serving_cluster, pipeline, lambda status: None)
    return "twice"


MakeKey = Callable[..., httpx.Client]


@pytest.fixture
def make_key(shoal: ShoalCli, serving_cluster: Cluster) -> MakeKey:
    """Make a key; returns a client that sends it, once it is let in."""

    def make(name: str, tenant: str, *options: str) -> httpx.Client:
        result = shoal("keys", "create", name, "--tenant", tenant, "--allow", "predict:*", *options, "--json")
        assert result.returncode == 0, result.stderr
        key = json.loads(result.stdout)["key"]
        client = httpx.Client(
            base_url=serving_cluster.url, headers={"Authorization": f"Bearer {key}"}, timeout=30, trust_env=False
        )
        assert wait_until(lambda: client.get("/v2").status_code == 200, 2)
        # A limit is in force as soon as a key is, or a moment later.
        time.sleep(0.5)
        return client

    return make


def infer_by_grpc(address: str, key: str) -> Any:
    request = messages.ModelInferRequest(model_name="flowers")
    tensor = request.inputs.add(name="input", datatype="FP32", shape=[1, 4])
    tensor.contents.fp32_contents.extend([5.1, 3.5, 1.4, 0.2])
    with grpc.insecure_channel(address) as channel:
        method = channel.unary_unary(
            f"/{messages.SERVICE_NAME}/ModelInfer",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=lambda data: data,
        )
        return method(request, metadata=(("authorization", f"Bearer {key}"),), timeout=30)


def test_http_grpc_pipeline_and_stable_address_draw_on_one_budget(
    make_key: MakeKey, serving_cluster: Cluster, twice: str, shoal: ShoalCli
) -> None:
    http = make_key("ci", "initech", "--limit", "requests=5/day", "--limit", "rows=100/day")
    key = http.headers["authorization"].removeprefix("Bearer ")
    grpc_address = serving_cluster.grpc_address

    answered = [
        http.post("/v2/models/flowers/predict", json=BODY),
        http.post("/v2/models/flowers/predict", json=BODY),
        http.post("/api/v1/models/flowers/predict", json=BODY),
        http.post(f"/v2/models/{twice}/predict", json=BODY),
    ]
    by_grpc = infer_by_grpc(grpc_address, key)
    refused = [
        http.post(path, json=BODY)
        for path in ("/v2/models/flowers/predict", "/api/v1/models/flowers/predict", f"/v2/models/{twice}/predict")
    ]
    with pytest.raises(grpc.RpcError) as refusal:
        infer_by_grpc(grpc_address, key)

    assert [response.status_code for response in answered] == [200] * 4, answered[-1].text
    assert by_grpc
    assert '"requests-day";r=' in answered[0].headers["ratelimit"]
    for response in refused:
        assert response.status_code == 429, response.text
        assert response.json()["error"]["code"] == "limit_exceeded"
        assert "the key's limit of requests=5/day is reached: 5 are used" in response.json()["error"]["message"]
        assert response.headers["ratelimit-policy"] == '"requests-day";q=5;w=86400'
        assert response.headers["ratelimit"].startswith('"requests-day";r=0;t=')
        assert 0 < int(response.headers["retry-after"]) <= 86_400
    assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    trailers = dict(refusal.value.trailing_metadata())
    assert trailers["ratelimit-policy"] == '"requests-day";q=5;w=86400'
    # A caller may see a model without a charge, and a limit is raised within a second.
    assert http.get("/v2/models/flowers").status_code == 200
    assert shoal("keys", "update", "initech/ci", "--limit", "requests=6/day").returncode == 0
    assert wait_until(lambda: http.post("/v2/models/flowers/predict", json=BODY).status_code == 200, 3)


def test_a_second_key_of_a_tenant_is_no_more_room_and_its_own_keys_do_not_raise_its_limit(
    make_key: MakeKey, shoal: ShoalCli, http: httpx.Client
) -> None:
    assert shoal("tenants", "set", "globex", "--limit", "requests=3/day", "--weight", "2").returncode == 0
    first, second = (make_key(name, "globex") for name in ("one", "two"))
    manager = http.post("/api/v1/keys", json={"name": "boss", "tenant": "globex", "allow": "keys"}).json()["key"]

    statuses = [
        client.post("/v2/models/flowers/predict", json=BODY).status_code for client in (first, second, first, second)
    ]
    refused = first.post("/v2/models/flowers/predict", json=BODY)
    raised: list[httpx.Response] = []

    def ask() -> bool:
        headers = {"Authorization": f"Bearer {manager}"}
        raised.append(http.patch("/api/v1/tenants/globex", json={"limits": ["requests=9/day"]}, headers=headers))
        return raised[-1].status_code != 401

    assert wait_until(ask, 2)
    assert statuses == [200, 200, 200, 429]
    assert "the tenant's limit of requests=3/day" in refused.json()["error"]["message"]
    assert (raised[-1].status_code, raised[-1].json()["error"]["code"]) == (403, "forbidden")
    assert http.get("/api/v1/tenants/globex").json() == {
        "name": "globex",
        "limits": {"requests/day": "3"},
        "weight": 2.0,
    }
    assert "globex" in shoal("tenants").stdout
