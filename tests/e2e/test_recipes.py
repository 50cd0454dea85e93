"""Every recipe that comes with Shoal: trained a little, published, deployed, and called in the words of its task."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.local.record import Cluster
from cluster.settings import Settings
from tests.conftest import open_http
from training.recipe.load import list_builtin_recipes

Ask = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def driver(cluster: Cluster, settings: Settings) -> Iterator[Ask]:
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

    def ask(line: str) -> dict[str, Any]:
        process.stdin.write(line + "\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        for said in process.stdout:  # type: ignore[union-attr]
            if said.startswith("{"):
                found: dict[str, Any] = json.loads(said)
                return found
        raise AssertionError(f"the driver ended at {line!r} with {process.wait()}")

    try:
        yield ask
    finally:
        process.stdin.close()
        process.wait(60)


@pytest.fixture(scope="module")
def caller(cluster: Cluster, settings: Settings) -> Iterator[httpx.Client]:
    with open_http(settings, cluster) as client:
        yield client


# A few that answer in ways of their own, every day (test_walk.py has classes); all of them with `make soak`.
DAILY = {"digits-detect", "roles", "shakespeare-gpt"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in DAILY else pytest.mark.soak) for name in list_builtin_recipes()]
)
def test_a_served_prediction_equals_the_training_time_one_bit_for_bit(
    driver: Ask, caller: httpx.Client, name: str
) -> None:
    made = driver(name)
    assert "error" not in made, made["error"]
    answer = caller.post(f"/v2/models/{name}/predict", json=made["request"])
    example = caller.get(f"/v2/models/{name}/example").json()
    again = caller.post(f"/v2/models/{name}/predict", json=example)
    document = caller.get("/openapi.json")

    assert answer.status_code == 200, answer.text
    assert answer.json()["predictions"] == made["predictions"]
    assert again.status_code == 200, again.text
    assert f"/v2/models/{name}/predict" in document.json()["paths"]
    card = made["manifest"]
    assert card["dataset"]["leaked_rows"] == 0
    assert card["primary_metric"] in card["metrics"]
    assert {"loss.png", "metric.png"} <= card["files"].keys()
    assert card["energy"] is None or card["energy"]["kwh"] > 0
