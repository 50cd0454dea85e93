"""Training from files on a real cluster: scanned, streamed to two workers, published, served; and refused files."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cluster.local.running_cluster import Cluster
from cluster.settings import Settings
from tests.conftest import ShoalCli, parse_published
from training.registry.model_registry import Registry

RECIPE = """
from pathlib import Path

from training import Files, Net, Optimizer, Recipe, StopRule, TokenizerConfig
from training.zoo.nets.{net} import {factory}

recipe = Recipe(
    name={name!r},
    task={task!r},
    data=Files(path=Path(__file__).parent / "rows", {files}),
    net=Net(source={factory}, args={args}),
    optimizer=Optimizer(lr=0.02),
    stop=StopRule(epochs=2),
    batch_size=31,
    {rest}
)
"""


@pytest.fixture(scope="module")
def registry(settings: Settings) -> Registry:
    return Registry(settings)


def write_recipe(folder: Path, name: str, task: str, files: str, net: str, args: object, rest: str = "") -> str:
    module, _, factory = net.partition(":")
    values = {"name": name, "task": task, "files": files, "net": module, "factory": factory, "args": args, "rest": rest}
    path = folder / f"{name}_recipe.py"
    path.write_text(RECIPE.format(**values))
    return str(path)


def write_coins(folder: Path, count: int = 3000) -> str:
    """Write CSV files of coins, whose metal follows from weight and size, and a recipe for them; returns its path."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"grams": rng.normal(5, 2, count), "size": rng.choice(["large", "small"], count)})
    frame["metal"] = np.where(frame.grams > np.where(frame["size"] == "large", 7, 4), "gold", "silver")
    (folder / "rows" / "old").mkdir(parents=True)
    for i, path in enumerate(("a.csv", "b.csv", "old/c.csv")):
        frame.iloc[i::3].to_csv(folder / "rows" / path, index=False)
    files = 'format="csv", target="metal", license="CC0", sample_rows=500, shuffle_buffer_rows=200'
    return write_recipe(folder, "coins", "tabular-classification", files, "mlp:mlp", {"hidden_sizes": [16]})


@pytest.mark.soak
def test_a_folder_of_csv_files_is_streamed_trained_and_served(
    shoal: ShoalCli, cluster: Cluster, registry: Registry, tmp_path: Path
) -> None:
    trained = shoal("train", write_coins(tmp_path))

    version = registry.resolve(parse_published(trained))
    assert "3,000 rows scanned, all valid" in trained.stdout
    manifest = registry.load_manifest(version)
    assert manifest.metrics["test_accuracy"] > 0.9
    assert manifest.training["workers"] == 2
    dataset = manifest.dataset
    assert dataset is not None
    assert sum(dataset.rows.values()) == 3000
    assert dataset.leaked_rows == 0
    # Of the 31 rows of a step one worker takes 16 and the other 15; each holds half of all rows.
    assert manifest.training["steps"] == 2 * (dataset.rows["train"] // 2 // 16)
    card = (registry.fetch_bundle(version) / "README.md").read_text()
    assert "equal rows are in the same split" in card
    assert f"500 of the {dataset.rows['test']} test rows" in card

    assert shoal("deploy", str(version), "--cpus", "0.1").returncode == 0
    rows = [{"grams": 5.5, "size": "large"}, {"grams": 5.5, "size": "small"}]
    response = shoal("predict", "coins", json.dumps({"inputs": rows}))
    assert response.returncode == 0, response.stderr
    assert [p["label"] for p in json.loads(response.stdout)["predictions"]] == ["silver", "gold"]


@pytest.mark.soak
def test_a_folder_of_images_for_each_class_is_trained(
    shoal: ShoalCli, cluster: Cluster, registry: Registry, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    for i in range(600):
        name = ("vertical", "horizontal")[i % 2]
        (tmp_path / "rows" / name).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 60, (28, 28), dtype=np.uint8)
        start = rng.integers(0, 26)
        bar = np.s_[:, start : start + 2] if name == "vertical" else np.s_[start : start + 2]
        pixels[bar] += 180
        Image.fromarray(pixels).save(tmp_path / "rows" / name / f"{i}.png")
    files = 'format="images", height=28, width=28, mode="L"'
    path = write_recipe(
        tmp_path, "bars", "image-classification", files, "cnn:cnn", {"in_channels": 1, "num_classes": 2}
    )

    # 20 steps end within an epoch.
    result = shoal("train", path, "--set", "stop.steps=20")

    manifest = registry.load_manifest(registry.resolve(parse_published(result)))
    assert manifest.training["steps"] == 20
    assert manifest.training["stopped_by"] == "steps"
    assert getattr(manifest.output_schema, "labels", None) == ("horizontal", "vertical")
    assert manifest.metrics["test_accuracy"] > 0.8


@pytest.mark.soak
def test_texts_of_parquet_files_are_tokenized_and_trained_on(
    shoal: ShoalCli, cluster: Cluster, registry: Registry, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    sentiments = rng.integers(0, 2, 2000)
    texts = [f"{'fine good' if s else 'poor bad'} {'so ' * rng.integers(0, 9)}{i}" for i, s in enumerate(sentiments)]
    (tmp_path / "rows").mkdir()
    pd.DataFrame({"text": texts, "stars": sentiments * 4 + 1}).to_parquet(
        tmp_path / "rows" / "a.parquet", row_group_size=300
    )
    files = 'format="parquet", target="stars", text="text"'
    rest = 'tokenizer=TokenizerConfig(kind="words", max_tokens=8)'
    path = write_recipe(tmp_path, "stars", "text-classification", files, "bag_of_ngrams:bag_of_ngrams", {}, rest)

    result = shoal("train", path, "--workers", "1")

    manifest = registry.load_manifest(registry.resolve(parse_published(result)))
    assert getattr(manifest.output_schema, "labels", None) == ("1", "5")
    assert manifest.metrics["test_accuracy"] > 0.95


def test_an_invalid_value_ends_the_run_before_training_with_one_line_that_names_it(
    shoal: ShoalCli, cluster: Cluster, registry: Registry, tmp_path: Path
) -> None:
    recipe = Path(write_coins(tmp_path))
    with (tmp_path / "rows" / "old" / "c.csv").open("a") as file:
        file.write("heavy,large,gold\n")
    recipe.write_text(recipe.read_text().replace("name='coins'", "name='invalid-coins'"))

    result = shoal("train", str(recipe))

    assert result.returncode == 2
    message = (
        "error: old/c.csv, row 1001, column 'grams': 'heavy' is not a number; correct it "
        "(rows are numbered from 1, without the header)"
    )
    assert " ".join(result.stderr.split()) == message
    assert "invalid-coins" not in registry.list_models()
