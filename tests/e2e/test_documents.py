"""The commands and scripts of README, guides and CONTRIBUTING, run in their order on a real cluster."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.local.running_cluster import Cluster
from cluster.settings import Settings
from tests.conftest import publish_and_deploy
from tests.documents import DOCUMENTS, Block, list_blocks
from tests.small_bundles import save_image, save_text_generator

# Writes digit.png, which the guides send to a model, from the data set.
SAVE_DIGIT = """
from pathlib import Path
from training.data.dataset import load_dataset
from training.recipe.load import load_recipe
dataset = load_dataset(load_recipe("digits-cnn").data)
Path("digit.png").write_bytes(dataset.input_schema.encode_png(dataset.inputs[0]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documents")
    subprocess.run([sys.executable, "-c", SAVE_DIGIT], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def deployed_models(cluster: Cluster, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Deploy the models that the guides call, with the demo's name and a recipe's: nets that learned nothing."""
    folder = tmp_path_factory.mktemp("bundles")
    save_image(folder / "digits", "digits-cnn", size=28)
    save_text_generator(folder / "writer", "shakespeare-gpt")
    for name in ("digits", "writer"):
        publish_and_deploy(settings, cluster, folder / name)


# It trains for more than a minute.
LONG_DOCUMENTS = {"training/README.md"}


@pytest.mark.parametrize(
    "document",
    [pytest.param(each, marks=pytest.mark.soak) if each in LONG_DOCUMENTS else each for each in DOCUMENTS],
)
def test_the_commands_and_scripts_of_a_document_run_as_printed(
    cluster: Cluster, settings: Settings, folder: Path, deployed_models: None, document: str
) -> None:
    environment = os.environ | settings.as_environment()
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    # The defaults that documents show, and their values on this cluster.
    replacements = {"~/.shoal": str(settings.home), "127.0.0.1:8000": cluster.url.removeprefix("http://")}
    for block in list_blocks(document):
        if block.title:
            (folder / block.title).write_text(block.text)
        elif block.language in ("sh", "python"):
            result = subprocess.run(
                build_command(block, replacements),
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert result.returncode == 0, f"{block}\n{result.stdout}\n{result.stderr}"
            assert '"error"' not in result.stdout, f"{block}\n{result.stdout}"


def build_command(block: Block, replacements: dict[str, str]) -> list[str]:
    text = block.text
    for default, value in replacements.items():
        text = text.replace(default, value)
    if block.language == "python":
        return [sys.executable, "-c", text]
    bash = shutil.which("bash")
    assert bash
    return [bash, "-e", "-o", "pipefail", "-c", text]
