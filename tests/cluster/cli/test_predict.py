"""What `shoal predict` says where there is nothing to call, or nothing that it can send; no cluster."""

from pathlib import Path

import pytest

from cluster.cli import terminal
from cluster.cli.predict import explain_unknown_model
from cluster.prediction_files import read_source
from cluster.settings import Settings
from deployments.errors import UnknownModel
from deployments.specs.model_deployment import ModelDeployment, ModelEndpoint
from deployments.state.store import DeploymentStore
from training.errors import UserError


def call_unknown(name: str) -> None:
    error = UnknownModel(f"no model {name!r} is deployed; GET /api/v1/models lists the models")
    raise UserError(error.message) from error


def test_a_model_that_is_not_deployed_is_answered_with_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(home=tmp_path)
    monkeypatch.setattr(terminal.context, "settings", settings, raising=False)
    endpoint = ModelEndpoint(name="iris", version=1, digest="d", uri="/iris")
    DeploymentStore.open(settings).put_record(ModelDeployment(endpoint=endpoint))

    with pytest.raises(UserError) as raised:
        explain_unknown_model(call_unknown)(name="wine")

    expected = "'wine' is not deployed; deployed: iris; `shoal deploy wine` serves a published model"
    assert str(raised.value) == expected


@pytest.mark.parametrize("name", ["save.py", "notes.md", "image.tiff"])
def test_a_file_of_another_kind_is_answered_with_the_kinds(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("import torch")

    with pytest.raises(UserError) as raised:
        read_source(str(tmp_path / name), dict)

    message = str(raised.value)
    assert message.startswith(f"{tmp_path / name} is no file of inputs; give .json, .jsonl, .ndjson, .csv, .parquet,")
    assert message.endswith(".png, .jpg, .jpeg, .webp, or a folder of images")
