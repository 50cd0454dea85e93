"""The whole walk on a real cluster: train with two DDP workers, publish, deploy, ask; own recipes, jobs, failures."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from cluster.local import secrets
from cluster.local.record import Cluster
from cluster.settings import Settings
from tests.conftest import Shoal, published, save_table
from training.bundle.load import load_bundle
from training.data.preprocessing import prepare_dataset
from training.recipe.load import load_recipe
from training.registry.model_registry import Registry
from training.registry.runs import RunHistory
from training.schema import ImageInput

OWN_RECIPE = '''
"""A recipe with a net, a loss and data of its own, and a helper module beside it."""
import torch
from own_helper import WIDTH
from torch import nn
from training import Data, Dataset, Loss, Net, Optimizer, Recipe, StopRule, TableInput


class Rings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 2))

    def forward(self, x):
        return self.layers(torch.cat([x, (x * x).sum(1, keepdim=True)], 1))


def rings(count: int) -> Dataset:
    x = torch.randn(count, 2, generator=torch.Generator().manual_seed(0))
    return Dataset(
        inputs=x,
        targets=(x.norm(dim=1) > 1.2).long(),
        labels=("inner", "outer"),
        input_schema=TableInput(features=("x", "y")),
        source="drawn from a normal distribution",
        license="none needed",
    )


def half_loss(y, target):
    return nn.functional.cross_entropy(y, target) / 2


recipe = Recipe(
    name="rings",
    task="tabular-classification",
    data=Data(source=rings, args={"count": 400}),
    net=Net(source=Rings),
    loss=Loss(source=half_loss),
    optimizer=Optimizer(lr=0.02),
    stop=StopRule(epochs=8),
    batch_size=16,
)
'''


@pytest.fixture(scope="module")
def own_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_helper.py").write_text("WIDTH = 16\n")
    (folder / "own_recipe.py").write_text(OWN_RECIPE)
    return folder / "own_recipe.py"


@pytest.fixture(scope="module")
def registry(settings: Settings) -> Registry:
    return Registry(settings)


def newest(registry: Registry, name: str) -> int:
    return registry.list_versions(name)[0].version if name in registry.list_models() else 0


def run_of(registry: Registry, reference: str) -> str:
    """The name of the run that made a version."""
    return RunHistory(registry).find_run(registry.resolve(reference).run_id).name


def weights(registry: Registry, reference: str) -> dict[str, torch.Tensor]:
    folder = registry.fetch_bundle(registry.resolve(reference))
    return dict(load_bundle(folder).net.state_dict())


def test_digits_are_trained_published_deployed_and_read(
    shoal: Shoal, cluster: Cluster, settings: Settings, registry: Registry
) -> None:
    trained = shoal("train", "digits-cnn", "--workers", "2", "--set", "stop.epochs=3")
    version = published(trained)
    assert "digits-cnn: epoch 3/3" in trained.stdout

    manifest = registry.load_manifest(registry.resolve(version))
    assert manifest.training["workers"] == 2
    assert manifest.metrics["test_accuracy"] > 0.9
    assert manifest.dataset is not None
    assert manifest.dataset.rows == {"train": 3600, "validation": 400, "test": 1000}

    deployed = shoal("deploy", version)
    assert deployed.returncode == 0, deployed.stderr

    recipe = load_recipe("digits-cnn")
    dataset, parts, _ = prepare_dataset(recipe)
    test = dataset.select(parts["test"])
    assert isinstance(test.targets, torch.Tensor)
    assert isinstance(dataset.input_schema, ImageInput)
    key = secrets.read_secret(settings.home, secrets.ADMIN_KEY)
    url = f"{cluster.url}/v2/models/digits-cnn/predict"
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "image/png"}
    with httpx.Client(headers=headers) as http:
        answers = [http.post(url, content=dataset.input_schema.encode_png(row)).json() for row in test.inputs[::5]]
    right = [a["predictions"][0]["label"] == str(t) for a, t in zip(answers, test.targets[::5].tolist(), strict=True)]
    # The same net on the same rows: HTTP may cost nothing of the accuracy.
    served = load_bundle(registry.fetch_bundle(registry.resolve(version))).net
    with torch.inference_mode():
        expected = served(test.inputs[::5]).argmax(1) == test.targets[::5]
    assert right == expected.tolist()
    shoal("undeploy", "digits-cnn")


@pytest.fixture(scope="module")
def iris(shoal: Shoal, cluster: Cluster) -> subprocess.CompletedProcess[str]:
    """The recipe as it is, by the command."""
    return shoal("train", "iris", "--profile", env={"SHOAL_COUNTRY": "DEU"})


@pytest.fixture(scope="module")
def other_iris(cluster: Cluster, settings: Settings) -> subprocess.CompletedProcess[str]:
    """The recipe with another seed and fewer epochs, by Ray's own tool."""
    ray = Path(sys.executable).parent / "ray"
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(settings.home / "secrets" / "ray_token"),
    }
    changed = ["iris", "--set", "seed=6", "--set", "stop.epochs=4"]
    return subprocess.run(
        [ray, "job", "submit", "--address", cluster.dashboard_url, "--", "python", "-m", "training.run", *changed],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_iris_reaches_its_score_and_its_card_can_be_trusted(
    shoal: Shoal, iris: subprocess.CompletedProcess[str], registry: Registry
) -> None:
    version = published(iris)
    assert "all-reduce, inside it" in iris.stdout
    manifest = registry.load_manifest(registry.resolve(version))
    assert manifest.metrics["test_accuracy"] >= 0.93
    assert manifest.dataset is not None
    assert manifest.dataset.dropped_rows == {"duplicates": 1}
    span = manifest.intervals["test_accuracy"]
    assert span.low <= manifest.metrics["test_accuracy"] <= span.high
    assert manifest.per_class_metrics.keys() == {"setosa", "versicolor", "virginica"}
    card = shoal("models", "show", version, env={"COLUMNS": "200"}).stdout
    assert f"card of {version}" in card
    assert "calibration error" in card
    assert "Not measured." in card or "at the mean of DEU's grid" in card


def test_plain_ray_job_submit_runs_the_same_training(
    other_iris: subprocess.CompletedProcess[str], registry: Registry
) -> None:
    manifest = registry.load_manifest(registry.resolve(published(other_iris)))

    assert manifest.recipe is not None
    assert manifest.recipe["seed"] == 6
    assert manifest.training["workers"] == 2


def test_the_same_seed_and_workers_give_identical_weights_which_reproduce_says(
    shoal: Shoal,
    iris: subprocess.CompletedProcess[str],
    other_iris: subprocess.CompletedProcess[str],
    registry: Registry,
) -> None:
    first, other = published(iris), published(other_iris)

    done = shoal("reproduce", first)

    assert done.returncode == 0, done.stderr
    assert "every weight is the same, bit for bit" in done.stdout
    assert "+0.000000" in done.stdout
    again = f"iris:{newest(registry, 'iris')}"
    assert again in done.stdout
    found = {version: weights(registry, version) for version in (first, again, other)}
    assert again not in (first, other)
    assert all(torch.equal(found[first][name], found[again][name]) for name in found[first])
    assert not all(torch.equal(found[first][name], found[other][name]) for name in found[first])


def test_runs_are_listed_and_two_of_them_compared(
    shoal: Shoal,
    iris: subprocess.CompletedProcess[str],
    other_iris: subprocess.CompletedProcess[str],
    registry: Registry,
) -> None:
    one, other = (run_of(registry, published(done)) for done in (iris, other_iris))

    listed = shoal("runs", "--limit", "100", env={"COLUMNS": "300"})
    compared = shoal("runs", "compare", other, one, env={"COLUMNS": "300"})

    assert re.search(rf"{one} +FINISHED .* test accuracy [01]\.\d{{4}}", listed.stdout)
    assert other in listed.stdout
    assert re.search(r"stop\.epochs +4 +30", compared.stdout)
    assert re.search(r"seed +6 +0", compared.stdout)
    assert re.search(r"test_accuracy +[01]\.\d{4} +[01]\.\d{4} +[+-]", compared.stdout)
    assert shoal("runs", "delete", one).returncode == 2, "a finished run leaves no checkpoints"


def test_a_users_own_net_data_and_loss_travel_with_a_job_and_are_served(
    shoal: Shoal, cluster: Cluster, own_recipe: Path, registry: Registry
) -> None:
    trained = shoal("train", str(own_recipe), "--submit", "--workers", "1")

    version = published(trained)
    manifest = registry.load_manifest(registry.resolve(version))
    assert manifest.metrics["test_accuracy"] > 0.8
    assert manifest.training["workers"] == 1
    deployed = shoal("deploy", version, "--cpus", "0.1")
    assert deployed.returncode == 0, deployed.stderr
    answer = shoal("predict", "rings", '{"inputs": [{"x": 0.0, "y": 0.1}, {"x": 3.0, "y": 0.0}]}')
    assert answer.returncode == 0, answer.stderr
    assert [p["label"] for p in json.loads(answer.stdout)["predictions"]] == ["inner", "outer"]


def test_a_job_is_refused_without_the_clusters_token(cluster: Cluster) -> None:
    for token in (None, "0" * 64):
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        body = {"entrypoint": "true"}
        assert httpx.post(f"{cluster.dashboard_url}/api/jobs/", json=body, headers=headers).status_code in (401, 403)


def test_a_recipe_that_cannot_run_is_one_line_and_publishes_nothing(
    shoal: Shoal, cluster: Cluster, registry: Registry, own_recipe: Path, tmp_path: Path
) -> None:
    text = own_recipe.read_text().replace("return self.layers(", "return 1 / 0 * self.layers(")
    (tmp_path / "own_helper.py").write_text("WIDTH = 16\n")
    (tmp_path / "broken_recipe.py").write_text(text.replace('name="rings"', 'name="broken"'))

    done = shoal("train", str(tmp_path / "broken_recipe.py"))

    assert done.returncode == 2
    assert "ZeroDivisionError" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "broken" not in registry.list_models()


def application(cluster: Cluster, settings: Settings, name: str) -> dict[str, Any]:
    from tests.conftest import fetch_applications

    found: dict[str, Any] = fetch_applications(settings, cluster)[name]
    return found


@pytest.mark.soak
def test_a_version_that_cannot_load_leaves_the_old_one_serving(
    shoal: Shoal, served: Cluster, settings: Settings, registry: Registry, http: httpx.Client, tmp_path: Path
) -> None:
    manifest = save_table(tmp_path / "second", name="flowers")
    # Whole by every checksum, but its own example is no request that it takes: it cannot warm up.
    example = tmp_path / "second" / "example.json"
    example.write_text('{"inputs": [[1, 2, 3]]}')
    files = manifest.files | {example.name: hashlib.sha256(example.read_bytes()).hexdigest()}
    manifest = manifest.model_copy(update={"files": files})
    manifest = manifest.model_copy(update={"digest": manifest.computed_digest()})
    (tmp_path / "second" / "bundle.json").write_text(manifest.model_dump_json())
    assert shoal("models", "import", str(tmp_path / "second")).returncode == 0

    done = shoal("deploy", str(registry.list_versions("flowers")[0]))

    assert done.returncode == 1
    assert "row 0 has 3 values; this model takes 4" in done.stderr
    assert done.stderr.count("\n") == 1
    assert http.get("/v2/models/flowers").json()["versions"] == ["1"]
    status = shoal("status", env={"COLUMNS": "200"}).stdout
    assert re.search(r"flowers +1 +RUNNING +1 +1-1", status)


def test_a_damaged_bundle_is_not_deployed_and_its_file_is_named(
    shoal: Shoal, served: Cluster, registry: Registry, http: httpx.Client, tmp_path: Path
) -> None:
    save_table(tmp_path / "third", name="flowers")
    assert shoal("models", "import", str(tmp_path / "third")).returncode == 0
    third = registry.list_versions("flowers")[0]
    (registry.fetch_bundle(third) / "README.md").write_text("altered after publication")

    done = shoal("deploy", str(third))

    assert done.returncode == 2
    assert "README.md was altered" in done.stderr
    assert http.get("/v2/models/flowers").json()["versions"] == ["1"]


def test_bf16_answers_as_fp32_does_and_a_version_too_far_from_it_is_refused(
    shoal: Shoal, served: Cluster, http: httpx.Client, tmp_path: Path
) -> None:
    first = save_table(tmp_path / "first", name="rounded")
    strict = first.model_copy(update={"tolerance": 1e-7})
    shutil.copytree(tmp_path / "first", tmp_path / "strict")
    strict = strict.model_copy(update={"digest": strict.computed_digest()})
    (tmp_path / "strict" / "bundle.json").write_text(strict.model_dump_json())
    for folder in ("first", "strict"):
        assert shoal("models", "import", str(tmp_path / folder)).returncode == 0
    request = {"inputs": [[5.1, 3.5, 1.4, 0.2]]}

    deployed = shoal("deploy", "rounded:1", "--cpus", "0.5", "--dtype", "bf16")
    assert deployed.returncode == 0, deployed.stderr
    scores = [
        http.post(f"/v2/models/{name}/predict", json=request).json()["predictions"][0]["scores"]
        for name in ("rounded", "flowers")  # of the same weights
    ]
    refused = shoal("deploy", "rounded:2", "--cpus", "0.5", "--dtype", "bf16")

    assert scores[0] != scores[1]
    assert scores[0] == pytest.approx(scores[1], abs=0.02)
    assert refused.returncode == 1
    assert re.search(r"differs from fp32 by 0\.00\d+ .* tolerance is 1e-07; deploy it without --dtype", refused.stderr)
    assert refused.stderr.count("\n") == 1
    assert http.post("/v2/models/rounded/versions/1/predict", json=request).status_code == 200
    assert http.get("/api/v1/models/rounded").json()["variant"] == "bf16"
    assert re.search(r"rounded +1 +RUNNING +1 +1-1 +bf16", shoal("status", env={"COLUMNS": "200"}).stdout)
    assert shoal("undeploy", "rounded").returncode == 0


@pytest.mark.soak
def test_a_compiled_model_answers_as_the_net_does_and_writes_to_its_own_home_alone(
    shoal: Shoal, served: Cluster, settings: Settings, http: httpx.Client, tmp_path: Path
) -> None:
    save_table(tmp_path / "quick", name="quick")
    assert shoal("models", "import", str(tmp_path / "quick")).returncode == 0
    request = {"inputs": [[5.1, 3.5, 1.4, 0.2]] * 3}

    deployed = shoal("deploy", "quick", "--cpus", "0.5", "--compile")

    assert deployed.returncode == 0, deployed.stderr
    quick, plain = (
        http.post(f"/v2/models/{name}/predict", json=request).json()["predictions"] for name in ("quick", "flowers")
    )
    assert [p["label"] for p in quick] == [p["label"] for p in plain]
    assert quick[0]["scores"] == pytest.approx(plain[0]["scores"], abs=1e-5)
    assert list((settings.home / "cache" / "compiled").rglob("net.pt2"))
    assert shoal("undeploy", "quick").returncode == 0


def test_scaling_bounds_change_without_new_replicas(shoal: Shoal, served: Cluster, settings: Settings) -> None:
    def replicas() -> set[str]:
        found = application(served, settings, "flowers")["deployments"]["replica"]["replicas"]
        return {r["replica_id"] for r in found if r["state"] == "RUNNING"}

    before = replicas()
    assert shoal("deploy", "flowers:1", "--min-replicas", "2", "--max-replicas", "3", "--cpus", "0.5").returncode == 0
    during = replicas()
    assert shoal("deploy", "flowers:1", "--cpus", "0.5").returncode == 0

    assert before < during
    assert len(during) == 2
