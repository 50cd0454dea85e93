"""What a newcomer types in the first hour: files to predict on, newest versions, scales that stay, logs, deletion."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from cluster import Shoal
from cluster.local.running_cluster import Cluster
from cluster.settings import Settings
from tests.conftest import ShoalCli, parse_published
from tests.small_bundles import save_image, save_table
from training.bundle.manifest import ModelInfo
from training.bundle.save import save_bundle
from training.schema import ClassOutput, Feature, TableInput

ROWS = pd.DataFrame(
    {
        "id": [7, 8, 9],
        "length": [5.1, 6.2, 4.9],
        "width": [3.5, 2.9, None],
        "color": ["red", "white", "red"],
    }
)


class EncodeColor(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        numbers, color = x[:, :2].nan_to_num(), x[:, 2].long()
        return self.layer(torch.cat([numbers, torch.nn.functional.one_hot(color, 2).float()], 1))


@pytest.fixture(scope="module")
def petals(shoal: ShoalCli, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deployed model of two numbers, one of which may be missing, and a category; returns a folder for files."""
    folder = tmp_path_factory.mktemp("petals")
    features = ("length", "width", Feature(name="color", categories=("red", "white")))
    info = ModelInfo(
        name="petals",
        task="tabular-classification",
        input_schema=TableInput(features=features, allow_missing=True),
        output_schema=ClassOutput(labels=("a", "b")),
    )
    save_bundle(folder / "bundle", EncodeColor(), inputs=torch.tensor([[1.0, 2.0, 0.0], [3.0, 4.0, 1.0]]), info=info)
    version = parse_published(shoal("models", "import", str(folder / "bundle")))
    deployed = shoal("deploy", version, "--cpus", "0.1")
    assert deployed.returncode == 0, deployed.stderr
    return folder


@pytest.fixture(scope="module")
def labels(shoal: ShoalCli, petals: Path) -> list[str]:
    """What the model predicts for ROWS, sent as JSON."""
    rows = ROWS.drop(columns="id").astype(object).where(ROWS.drop(columns="id").notna(), None)
    done = shoal("predict", "petals", json.dumps({"inputs": rows.to_dict("records")}))
    return [prediction["label"] for prediction in json.loads(done.stdout)["predictions"]]


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_rows_of_a_file_are_predicted(shoal: ShoalCli, petals: Path, labels: list[str], suffix: str) -> None:
    file = petals / f"rows.{suffix}"
    if suffix == "csv":
        ROWS.to_csv(file, index=False)
    elif suffix == "parquet":
        ROWS.to_parquet(file, index=False)
    else:
        rows = json.loads(ROWS.drop(columns="id").to_json(orient="records"))
        file.write_text("\n".join(map(json.dumps, rows)) + "\n")

    done = shoal("predict", "petals", str(file))

    assert done.returncode == 0, done.stderr
    assert "not sent, since petals does not take them: id" in done.stdout or suffix == "jsonl"
    predictions = json.loads(done.stdout[done.stdout.index("{") :])["predictions"]
    assert [prediction["label"] for prediction in predictions] == labels


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_predictions_are_written_beside_their_rows(
    shoal: ShoalCli, petals: Path, labels: list[str], suffix: str
) -> None:
    ROWS.to_parquet(petals / "rows.parquet", index=False)
    out = petals / f"predictions.{suffix}"

    done = shoal("predict", "petals", str(petals / "rows.parquet"), "--out", str(out))

    assert done.returncode == 0, done.stderr
    assert f"wrote 3 predictions to {out}" in done.stdout
    if suffix == "jsonl":
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert [(row["id"], row["prediction"]["label"]) for row in rows] == list(zip(ROWS.id, labels, strict=True))
        return
    frame = pd.read_csv(out) if suffix == "csv" else pq.read_table(out).to_pandas()
    assert frame.id.tolist() == ROWS.id.tolist()
    assert frame.label.tolist() == labels
    assert frame.score.between(0, 1).all()


def test_images_and_folders_of_them_are_predicted(shoal: ShoalCli, serving_cluster: Cluster, tmp_path: Path) -> None:
    for index in range(3):
        Image.new("L", (8, 8), 90 * index).save(tmp_path / f"{index}.png")
    (tmp_path / "notes.txt").write_text("no image")

    one = shoal("predict", "images", str(tmp_path / "0.png"))
    several = shoal("predict", "images", str(tmp_path), "--out", str(tmp_path / "out.csv"))

    assert len(json.loads(one.stdout)["predictions"]) == 1
    assert several.returncode == 0, several.stderr
    assert pd.read_csv(tmp_path / "out.csv").file.tolist() == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["petals", "nowhere.csv"], "'nowhere.csv' is neither a file nor JSON"),
        (["petals", '{"inputs": [{"length": NaN}]}'], "NaN is not JSON; write null for a missing value"),
        (["petals", '{"inputs": [[1, 2, "red"]]}', "--out", "rows.txt"], "write to a file that ends in"),
    ],
)
def test_what_cannot_be_predicted_on_is_one_line(
    shoal: ShoalCli, petals: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = shoal("predict", *arguments, cwd=tmp_path)

    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_bare_name_is_the_newest_version_and_what_else_there_is_is_said(
    shoal: ShoalCli, petals: Path, tmp_path: Path
) -> None:
    for folder in ("first", "second"):
        save_table(tmp_path / folder, name="newest")
        imported = shoal("models", "import", str(tmp_path / folder))
        assert imported.stdout.endswith(f"next: shoal deploy {parse_published(imported)}\n")

    deployed = shoal("deploy", "newest", "--cpus", "0.1", "--min-replicas", "1", "--max-replicas", "2")

    assert "deployed newest:2 at http://" in deployed.stdout
    assert "(replicas 1-2, fp32)" in deployed.stdout
    assert "other versions: 1 (champion)" in deployed.stdout
    again = shoal("deploy", "newest@champion")
    assert "deployed newest:1 at http://" in again.stdout
    # What was not named stays.
    assert "(replicas 1-2, fp32)" in again.stdout
    refused = shoal("models", "delete", "newest:1")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "newest:1 is deployed; `shoal undeploy newest`" in refused.stderr
    assert shoal("undeploy", "newest").returncode == 0
    aliased = shoal("models", "delete", "newest:1")
    assert "champion" in aliased.stderr
    assert shoal("models", "delete", "newest:2").stdout == "deleted newest:2\n"
    listed = json.loads(shoal("models", "show", "newest", "--json").stdout)
    assert [version["version"] for version in listed["versions"]] == [1]


def test_an_undeployed_model_is_not_found_at_once_and_can_be_deployed_again(
    shoal: ShoalCli, petals: Path, tmp_path: Path
) -> None:
    save_image(tmp_path / "bundle", name="brief")
    version = parse_published(shoal("models", "import", str(tmp_path / "bundle")))
    for _ in range(2):
        assert shoal("deploy", version, "--cpus", "0.1").returncode == 0
        assert shoal("undeploy", "brief").returncode == 0
        gone = shoal("predict", "brief", '{"inputs": [[1, 2, 3, 4]]}')
        assert gone.returncode == 2
        assert "'brief' is not deployed" in gone.stderr, gone.stderr


def test_the_same_verbs_are_methods(settings: Settings, petals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in settings.as_environment().items():
        monkeypatch.setenv(name, value)
    shoal = Shoal()

    version = shoal.publish(petals / "bundle")
    deployment = shoal.deploy(version)

    assert str(version) == "petals:1"
    assert deployment.scale.cpus == 0.1
    assert len(shoal.predict("petals", ROWS.drop(columns="id"))) == 3


@pytest.mark.parametrize("name", ["petals", "control", "controller", "edge"])
def test_logs_are_found_by_name(shoal: ShoalCli, petals: Path, name: str) -> None:
    done = shoal("logs", name, "-n", "5")

    assert done.returncode == 0, done.stderr
    assert re.match(r"(replica|controller|proxy)_[\w.\-]+: |\w+ has written nothing yet", done.stdout)


def test_logs_of_nothing_say_what_there_is(shoal: ShoalCli, petals: Path) -> None:
    done = shoal("logs", "roses")

    assert done.returncode == 2
    assert re.search(r"no logs of 'roses' on this machine; there are: .*control.*edge.*petals", done.stderr)


def test_logs_are_followed_until_interrupted(settings: Settings, petals: Path, http: object) -> None:
    command = [Path(sys.executable).parent / "shoal", "logs", "petals", "-f", "-n", "0"]
    process = subprocess.Popen(
        command,
        env=os.environ | settings.as_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )
    time.sleep(2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)

    assert process.wait(10) == 130
