"""Every built-in recipe: trained for a few steps, published, deployed, and called over HTTP."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.local.running_cluster import Cluster
from cluster.settings import Settings
from tests.conftest import open_http
from training.recipe.load import list_builtin_recipes
from training.registry.model_registry import Registry
from training.registry.runs import RunHistory

TrainRecipe = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def train_recipe(cluster: Cluster, settings: Settings) -> Iterator[TrainRecipe]:
    script = Path(__file__).with_name("recipe_driver.py")
    environment = os.environ | settings.as_environment()
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def train(name: str) -> dict[str, Any]:
        process.stdin.write(name + "\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        for line in process.stdout:  # type: ignore[union-attr]
            if line.startswith("{"):
                result: dict[str, Any] = json.loads(line)
                return result
        raise AssertionError(f"the driver ended at {name!r} with exit code {process.wait()}")

    try:
        yield train
    finally:
        process.stdin.close()
        process.wait(60)


@pytest.fixture(scope="module")
def client(cluster: Cluster, settings: Settings) -> Iterator[httpx.Client]:
    with open_http(settings, cluster) as http:
        yield http


# Always one of another schema than those of test_train_and_deploy.py (classes) and test_streaming.py (text); all in
# `make soak`.
NOT_SOAK = {"roles"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in NOT_SOAK else pytest.mark.soak) for name in list_builtin_recipes()]
)
def test_a_served_prediction_equals_that_of_the_training_code_bit_for_bit(
    train_recipe: TrainRecipe, client: httpx.Client, name: str
) -> None:
    expected = train_recipe(name)
    assert "error" not in expected, expected["error"]
    response = client.post(f"/v2/models/{name}/predict", json=expected["request"])
    example = client.get(f"/v2/models/{name}/example").json()
    example_response = client.post(f"/v2/models/{name}/predict", json=example)
    document = client.get("/openapi.json")

    assert response.status_code == 200, response.text
    assert response.json()["predictions"] == expected["predictions"]
    assert example_response.status_code == 200, example_response.text
    assert f"/v2/models/{name}/predict" in document.json()["paths"]
    manifest = expected["manifest"]
    assert manifest["dataset"]["leaked_rows"] == 0
    assert manifest["primary_metric"] in manifest["metrics"]
    assert {"loss.png", "metric.png"} <= manifest["files"].keys()
    assert manifest["energy"] is None or manifest["energy"]["kwh"] > 0


def test_a_caller_can_end_a_run_without_a_version(train_recipe: TrainRecipe, settings: Settings) -> None:
    registry = Registry(settings)
    before = {name: len(registry.list_versions(name)) for name in registry.list_models()}

    result = train_recipe("only train iris")

    assert "error" not in result, result["error"]
    assert result["wrote_bundle"]
    assert 0 <= result["metrics"]["test_accuracy"] <= 1
    assert RunHistory(registry).find_run(result["run"]).status == "FINISHED"
    assert {name: len(registry.list_versions(name)) for name in registry.list_models()} == before
