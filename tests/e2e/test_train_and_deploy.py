"""From recipe to prediction on a real cluster: train with two DDP workers, publish, deploy, predict; jobs, errors."""

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
from cluster.local.running_cluster import Cluster
from cluster.settings import Settings
from tests.conftest import ShoalCli, parse_published
from tests.small_bundles import rewrite_manifest, save_table
from training.bundle.load import load_bundle
from training.data.preprocessing import prepare_dataset
from training.recipe.load import load_recipe
from training.registry.model_registry import Registry
from training.registry.runs import RunHistory
from training.schema import ImageInput

OWN_RECIPE = '''
"""A recipe with its own net, loss and data, and a helper module in the same folder."""
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


def make_rings(count: int) -> Dataset:
    x = torch.randn(count, 2, generator=torch.Generator().manual_seed(0))
    return Dataset(
        inputs=x,
        targets=(x.norm(dim=1) > 1.2).long(),
        labels=("inner", "outer"),
        input_schema=TableInput(features=("x", "y")),
        source="drawn from a normal distribution",
        license="none needed",
    )


def halved_cross_entropy(y, target):
    return nn.functional.cross_entropy(y, target) / 2


recipe = Recipe(
    name="rings",
    task="tabular-classification",
    data=Data(source=make_rings, args={"count": 400}),
    net=Net(source=Rings),
    loss=Loss(source=halved_cross_entropy),
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
    # What a recipe imports travels, whatever version control makes of it.
    (folder / ".gitignore").write_text("own_helper.py\n")
    return folder / "own_recipe.py"


@pytest.fixture(scope="module")
def registry(settings: Settings) -> Registry:
    return Registry(settings)


def newest_version(registry: Registry, name: str) -> int:
    return registry.list_versions(name)[0].version if name in registry.list_models() else 0


def find_run_name(registry: Registry, reference: str) -> str:
    """Return the name of the run that published a version."""
    return RunHistory(registry).find_run(registry.resolve(reference).run_id).name


def load_weights(registry: Registry, reference: str) -> dict[str, torch.Tensor]:
    folder = registry.fetch_bundle(registry.resolve(reference))
    return dict(load_bundle(folder).net.state_dict())


def test_digits_are_trained_published_deployed_and_predicted(
    shoal: ShoalCli, cluster: Cluster, settings: Settings, registry: Registry
) -> None:
    trained = shoal("train", "digits-cnn", "--workers", "2", "--set", "stop.epochs=3")
    version = parse_published(trained)
    assert "digits-cnn: epoch 3/3" in trained.stdout

    manifest = registry.load_manifest(registry.resolve(version))
    assert manifest.training["workers"] == 2
    assert manifest.metrics["test_accuracy"] > 0.9
    assert manifest.dataset is not None
    assert manifest.dataset.rows == {"train": 3600, "validation": 400, "test": 1000}

    deployed = shoal("deploy", version, "--trust", "signed")
    assert deployed.returncode == 0, deployed.stderr
    traced = json.loads(shoal("trace", "--digest", manifest.digest, "--json").stdout)["models"][0]
    assert traced["run"]["id"] == traced["statement"]["run"] == registry.resolve(version).run_id
    assert traced["statement"]["recipe"] == traced["recipe"] == manifest.recipe
    assert traced["statement"]["data"] == manifest.dataset.fingerprint
    assert traced["statement"]["commit"] == manifest.git_commit
    assert traced["signature"].startswith("signed by this cluster")

    recipe = load_recipe("digits-cnn")
    dataset, splits, _ = prepare_dataset(recipe)
    test_rows = dataset.select(splits["test"])
    assert isinstance(test_rows.targets, torch.Tensor)
    assert isinstance(dataset.input_schema, ImageInput)
    key = secrets.read_secret(settings.home, secrets.ADMIN_KEY)
    url = f"{cluster.url}/v2/models/digits-cnn/predict"
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "image/png"}
    with httpx.Client(headers=headers) as http:
        responses = [
            http.post(url, content=dataset.input_schema.encode_png(row)).json() for row in test_rows.inputs[::5]
        ]
    labels = [response["predictions"][0]["label"] for response in responses]
    targets = test_rows.targets[::5]
    is_correct = [label == str(target) for label, target in zip(labels, targets.tolist(), strict=True)]
    # The same net on the same rows: predictions over HTTP must not differ.
    net = load_bundle(registry.fetch_bundle(registry.resolve(version))).net
    with torch.inference_mode():
        expected = net(test_rows.inputs[::5]).argmax(1) == targets
    assert is_correct == expected.tolist()
    shoal("undeploy", "digits-cnn")
    audited = json.loads(shoal("audit", "--target", "digits-cnn", "--json").stdout)
    started = ["train", "models.publish", "deploy", "undeploy"]
    assert [row["action"] for row in audited if row["outcome"] == "started"][-4:] == started
    assert [row["action"] for row in audited if row["outcome"] == "succeeded"][-3:] == ["train", "deploy", "undeploy"]
    (published,) = json.loads(shoal("audit", "--target", version, "--json").stdout)
    assert (published["action"], published["after"]["digest"]) == ("models.publish", registry.resolve(version).digest)


@pytest.fixture(scope="module")
def iris(shoal: ShoalCli, cluster: Cluster) -> subprocess.CompletedProcess[str]:
    """The recipe unchanged, by `shoal train`."""
    return shoal("train", "iris", "--profile", env={"SHOAL_COUNTRY": "DEU"})


@pytest.fixture(scope="module")
def other_iris(cluster: Cluster, settings: Settings) -> subprocess.CompletedProcess[str]:
    """The recipe with another seed and fewer epochs, by `ray job submit`."""
    ray = Path(sys.executable).parent / "ray"
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(settings.home / "secrets" / "ray_token"),
    }
    recipe = ["iris", "--set", "seed=6", "--set", "stop.epochs=4"]
    return subprocess.run(
        [ray, "job", "submit", "--address", cluster.dashboard_url, "--", "python", "-m", "training.run", *recipe],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_iris_reaches_its_score_and_its_card_is_complete(
    shoal: ShoalCli, iris: subprocess.CompletedProcess[str], registry: Registry
) -> None:
    version = parse_published(iris)
    assert "all-reduce, inside it" in iris.stdout
    manifest = registry.load_manifest(registry.resolve(version))
    assert manifest.metrics["test_accuracy"] >= 0.93
    assert manifest.dataset is not None
    assert manifest.dataset.dropped_rows == {"duplicates": 1}
    interval = manifest.intervals["test_accuracy"]
    assert interval.low <= manifest.metrics["test_accuracy"] <= interval.high
    assert manifest.per_class_metrics.keys() == {"setosa", "versicolor", "virginica"}
    card = shoal("models", "show", version, env={"COLUMNS": "200"}).stdout
    assert f"card of {version}" in card
    assert "calibration error" in card
    assert "Not measured." in card or "at the mean of DEU's grid" in card


def test_plain_ray_job_submit_runs_the_same_training(
    other_iris: subprocess.CompletedProcess[str], registry: Registry
) -> None:
    manifest = registry.load_manifest(registry.resolve(parse_published(other_iris)))

    assert manifest.recipe is not None
    assert manifest.recipe["seed"] == 6
    assert manifest.training["workers"] == 2


def test_the_same_seed_and_workers_give_identical_weights_as_reproduce_reports(
    shoal: ShoalCli,
    iris: subprocess.CompletedProcess[str],
    other_iris: subprocess.CompletedProcess[str],
    registry: Registry,
) -> None:
    first, other = parse_published(iris), parse_published(other_iris)
    newest = newest_version(registry, "iris")

    result = shoal("reproduce", first)

    assert result.returncode == 0, result.stderr
    assert "every weight is the same, bit for bit" in result.stdout
    assert "+0.000000" in result.stdout
    assert "nothing was published; run iris-" in result.stdout
    assert newest_version(registry, "iris") == newest
    weights = {version: load_weights(registry, version) for version in (first, other)}
    assert not all(torch.equal(weights[first][name], weights[other][name]) for name in weights[first])


def test_runs_are_listed_and_two_of_them_compared(
    shoal: ShoalCli,
    iris: subprocess.CompletedProcess[str],
    other_iris: subprocess.CompletedProcess[str],
    registry: Registry,
) -> None:
    first, second = (find_run_name(registry, parse_published(result)) for result in (iris, other_iris))

    listed = shoal("runs", "--limit", "100", env={"COLUMNS": "300"})
    compared = shoal("runs", "compare", second, first, env={"COLUMNS": "300"})

    assert re.search(rf"{first} +FINISHED .* test accuracy [01]\.\d{{4}}", listed.stdout)
    assert second in listed.stdout
    assert re.search(r"stop\.epochs +4 +30", compared.stdout)
    assert re.search(r"seed +6 +0", compared.stdout)
    assert re.search(r"test_accuracy +[01]\.\d{4} +[01]\.\d{4} +[+-]", compared.stdout)
    assert shoal("runs", "delete", first).returncode == 2, "a finished run has no checkpoints to delete"


def test_a_users_own_net_data_and_loss_are_uploaded_with_a_job_and_served(
    shoal: ShoalCli, cluster: Cluster, own_recipe: Path, registry: Registry
) -> None:
    trained = shoal("train", str(own_recipe), "--submit", "--workers", "1")

    version = parse_published(trained)
    manifest = registry.load_manifest(registry.resolve(version))
    assert manifest.metrics["test_accuracy"] > 0.8
    assert manifest.training["workers"] == 1
    submitted = json.loads(shoal("audit", "--action", "job.submit", "--limit", "2", "--json").stdout)
    assert [(row["target"], row["outcome"]) for row in submitted] == [("rings", "started"), ("rings", "succeeded")]
    assert submitted[1]["after"]["job"] in trained.stdout
    deployed = shoal("deploy", version, "--cpus", "0.1")
    assert deployed.returncode == 0, deployed.stderr
    response = shoal("predict", "rings", '{"inputs": [{"x": 0.0, "y": 0.1}, {"x": 3.0, "y": 0.0}]}')
    assert response.returncode == 0, response.stderr
    assert [p["label"] for p in json.loads(response.stdout)["predictions"]] == ["inner", "outer"]


def test_a_job_is_refused_without_the_clusters_token(cluster: Cluster) -> None:
    for token in (None, "0" * 64):
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        body = {"entrypoint": "true"}
        assert httpx.post(f"{cluster.dashboard_url}/api/jobs/", json=body, headers=headers).status_code in (401, 403)


def test_a_recipe_that_cannot_run_is_one_line_and_publishes_nothing(
    shoal: ShoalCli, cluster: Cluster, registry: Registry, own_recipe: Path, tmp_path: Path
) -> None:
    text = own_recipe.read_text().replace("return self.layers(", "return 1 / 0 * self.layers(")
    (tmp_path / "own_helper.py").write_text("WIDTH = 16\n")
    (tmp_path / "broken_recipe.py").write_text(text.replace('name="rings"', 'name="broken"'))

    result = shoal("train", str(tmp_path / "broken_recipe.py"))

    assert result.returncode == 2
    assert "ZeroDivisionError" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert "broken" not in registry.list_models()


def fetch_application(cluster: Cluster, settings: Settings, name: str) -> dict[str, Any]:
    from tests.conftest import fetch_applications

    application: dict[str, Any] = fetch_applications(settings, cluster)[name]
    return application


@pytest.mark.soak
def test_a_version_that_cannot_load_leaves_the_old_one_serving(
    shoal: ShoalCli,
    serving_cluster: Cluster,
    settings: Settings,
    registry: Registry,
    http: httpx.Client,
    tmp_path: Path,
) -> None:
    save_table(tmp_path / "second", name="flowers")
    # All checksums match, but the bundle's own example is an invalid request, so that the warm-up fails.
    example = tmp_path / "second" / "example.json"
    example.write_text('{"inputs": [[1, 2, 3]]}')
    rewrite_manifest(tmp_path / "second")
    assert shoal("models", "import", str(tmp_path / "second")).returncode == 0

    result = shoal("deploy", str(registry.list_versions("flowers")[0]))

    assert result.returncode == 1
    assert "row 0 has 3 values; this model takes 4" in result.stderr
    assert result.stderr.count("\n") == 1
    assert http.get("/v2/models/flowers").json()["versions"] == ["1"]
    status = shoal("status", env={"COLUMNS": "200"}).stdout
    assert re.search(r"flowers +1 +RUNNING +1 +1-1", status)


def test_an_altered_bundle_is_not_deployed_and_its_file_is_named(
    shoal: ShoalCli, serving_cluster: Cluster, registry: Registry, http: httpx.Client, tmp_path: Path
) -> None:
    save_table(tmp_path / "third", name="flowers")
    assert shoal("models", "import", str(tmp_path / "third")).returncode == 0
    third = registry.list_versions("flowers")[0]
    (registry.fetch_bundle(third) / "README.md").write_text("altered after publication")

    result = shoal("deploy", str(third))

    assert result.returncode == 2
    assert "README.md was altered" in result.stderr
    assert http.get("/v2/models/flowers").json()["versions"] == ["1"]


@pytest.mark.soak
def test_bf16_predicts_as_fp32_and_a_version_whose_error_exceeds_its_tolerance_is_refused(
    shoal: ShoalCli, serving_cluster: Cluster, http: httpx.Client, tmp_path: Path
) -> None:
    save_table(tmp_path / "first", name="rounded")
    shutil.copytree(tmp_path / "first", tmp_path / "strict")
    rewrite_manifest(tmp_path / "strict", tolerance=1e-7)
    for folder in ("first", "strict"):
        assert shoal("models", "import", str(tmp_path / folder)).returncode == 0
    request = {"inputs": [[5.1, 3.5, 1.4, 0.2]]}

    deployed = shoal("deploy", "rounded:1", "--cpus", "0.5", "--dtype", "bf16")
    assert deployed.returncode == 0, deployed.stderr
    scores = [
        http.post(f"/v2/models/{name}/predict", json=request).json()["predictions"][0]["scores"]
        for name in ("rounded", "flowers")  # the same weights
    ]
    refused = shoal("deploy", "rounded:2", "--cpus", "0.5", "--dtype", "bf16")

    assert scores[0] != scores[1]
    assert scores[0] == pytest.approx(scores[1], abs=0.02)
    assert refused.returncode == 1
    assert re.search(r"differs from fp32 by 0\.00\d+ .* tolerance is 1e-07; deploy it without --dtype", refused.stderr)
    assert refused.stderr.count("\n") == 1
    assert http.post("/v2/models/rounded/versions/1/predict", json=request).status_code == 200
    assert http.get("/api/v1/models/rounded").json()["variant"] == "bf16"
    assert re.search(r"rounded +\d+ +1 +RUNNING +1/1 +1-1 +bf16", shoal("status", env={"COLUMNS": "200"}).stdout)
    assert shoal("undeploy", "rounded").returncode == 0


@pytest.mark.soak
def test_a_compiled_model_predicts_as_the_net_and_writes_only_to_its_own_home(
    shoal: ShoalCli, serving_cluster: Cluster, settings: Settings, http: httpx.Client, tmp_path: Path
) -> None:
    save_table(tmp_path / "compiled-flowers", name="compiled-flowers")
    assert shoal("models", "import", str(tmp_path / "compiled-flowers")).returncode == 0
    request = {"inputs": [[5.1, 3.5, 1.4, 0.2]] * 3}

    deployed = shoal("deploy", "compiled-flowers", "--cpus", "0.5", "--compile")

    assert deployed.returncode == 0, deployed.stderr
    compiled, eager = (
        http.post(f"/v2/models/{name}/predict", json=request).json()["predictions"]
        for name in ("compiled-flowers", "flowers")
    )
    assert [p["label"] for p in compiled] == [p["label"] for p in eager]
    assert compiled[0]["scores"] == pytest.approx(eager[0]["scores"], abs=1e-5)
    assert list((settings.home / "cache" / "compiled").rglob("net.pt2"))
    assert shoal("undeploy", "compiled-flowers").returncode == 0


def test_scaling_bounds_change_without_new_replicas(
    shoal: ShoalCli, serving_cluster: Cluster, settings: Settings
) -> None:
    def list_replicas() -> set[str]:
        replicas = fetch_application(serving_cluster, settings, "flowers")["deployments"]["replica"]["replicas"]
        return {r["replica_id"] for r in replicas if r["state"] == "RUNNING"}

    before = list_replicas()
    assert shoal("deploy", "flowers:1", "--min-replicas", "2", "--max-replicas", "3", "--cpus", "0.5").returncode == 0
    during = list_replicas()
    assert shoal("deploy", "flowers:1", "--cpus", "0.5").returncode == 0

    assert before < during
    assert len(during) == 2
