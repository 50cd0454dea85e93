"""The commands and scripts of README, guides and CONTRIBUTING, run in their order on a real cluster."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.local.record import Cluster
from cluster.settings import Settings
from tests.conftest import Shoal, published
from tests.documents import DOCUMENTS, Block, list_blocks

# A digit of the set's own, so that what the guides call a file is one.
DIGIT = """
from pathlib import Path
from training.data.dataset import load_dataset
from training.recipe.load import load_recipe
dataset = load_dataset(load_recipe("digits-cnn").data)
Path("digit.png").write_bytes(dataset.input_schema.encode_png(dataset.inputs[0]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("documents")
    subprocess.run([sys.executable, "-c", DIGIT], cwd=made, check=True)
    return made


@pytest.fixture(scope="module")
def models(shoal: Shoal, cluster: Cluster) -> None:
    """What the guides call: digits, as the demo leaves them, and a small language model."""
    small = ("net.args.num_layers=1", "net.args.hidden_size=32")
    for name, changes in (("digits-cnn", ()), ("shakespeare-gpt", small)):
        words = [word for change in (*changes, "stop.steps=3") for word in ("--set", change)]
        version = published(shoal("train", name, "--workers", "1", *words))
        deployed = shoal("deploy", version, "--cpus", "0.1")
        assert deployed.returncode == 0, deployed.stderr


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_commands_and_scripts_of_a_document_run_as_printed(
    cluster: Cluster, settings: Settings, folder: Path, models: None, document: str
) -> None:
    environment = os.environ | settings.as_environment()
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    # What a cluster of defaults has, and what this one has instead.
    here = {"~/.shoal": str(settings.home), "127.0.0.1:8000": cluster.url.removeprefix("http://")}
    for block in list_blocks(document):
        if block.title:
            (folder / block.title).write_text(block.text)
        elif block.language in ("sh", "python"):
            done = subprocess.run(
                command_of(block, here), cwd=folder, env=environment, capture_output=True, text=True, timeout=300
            )
            assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
            assert '"error"' not in done.stdout, f"{block}\n{done.stdout}"


def command_of(block: Block, here: dict[str, str]) -> list[str]:
    text = block.text
    for default, value in here.items():
        text = text.replace(default, value)
    if block.language == "python":
        return [sys.executable, "-c", text]
    bash = shutil.which("bash")
    assert bash
    return [bash, "-e", "-o", "pipefail", "-c", text]
