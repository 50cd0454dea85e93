"""The deployment store: what was written comes back, by name, and survives another connection."""

from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect

from deployments.pipelines import ModelNode, Pipeline
from deployments.specs.deployment import PipelineDeployment, PipelineEndpoint
from deployments.specs.model_deployment import ModelDeployment, ModelEndpoint, Scale
from deployments.specs.signature import Signature
from deployments.state.store import _DEPLOYMENTS, DeploymentStore
from training.errors import UserError
from training.schema import NumberOutput, TableInput

MODEL = ModelDeployment(
    endpoint=ModelEndpoint(name="flowers", version=1, digest="d", uri="file:///b", dtype="bf16"),
    scale=Scale(min_replicas=2, max_replicas=3),
)
PIPELINE = PipelineDeployment(
    endpoint=PipelineEndpoint(
        name="a-pipeline",
        version=2,
        pipeline=Pipeline(name="a-pipeline", root=ModelNode(model="flowers")),
        signatures={
            "flowers": Signature(
                inputs=(TableInput(features=("x",)),), output=NumberOutput(name="y"), example={"x": 1.0}
            )
        },
    )
)


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'new' / 'platform.db'}"


def test_a_database_that_cannot_be_opened_is_refused_with_the_setting_that_names_it() -> None:
    with pytest.raises(UserError, match=r"Connection refused.*; start its server, or correct SHOAL_PLATFORM_URI"):
        DeploymentStore("postgresql://u@127.0.0.1:9/x")


def test_records_come_back_by_name_from_another_connection(uri: str) -> None:
    store = DeploymentStore(uri)
    store.put_record(MODEL)
    store.put_record(PIPELINE)

    other = DeploymentStore(uri)

    assert other.list_records() == [PIPELINE, MODEL]
    assert other.get_record("flowers") == MODEL
    assert other.get_record("roses") is None


def test_a_record_replaces_that_of_its_name_and_can_be_deleted(uri: str) -> None:
    store = DeploymentStore(uri)
    store.put_record(MODEL)
    changed = MODEL.model_copy(update={"scale": Scale()})
    store.put_record(changed)
    assert store.list_records() == [changed]

    store.delete_record("flowers")

    assert store.list_records() == []


def test_the_table_has_the_names_that_an_operator_reads(uri: str) -> None:
    DeploymentStore(uri)

    columns = inspect(create_engine(uri)).get_columns("deployments")

    assert [column["name"] for column in columns] == ["name", "spec", "updated_s"]


def test_a_record_that_cannot_be_read_hides_no_other(uri: str) -> None:
    store = DeploymentStore(uri)
    store.put_record(MODEL)
    with store._engine.begin() as connection:
        for name, spec in (("old", '{"model": "old", "version": 1}'), ("broken", "{")):
            connection.execute(_DEPLOYMENTS.insert().values(name=name, spec=spec, updated_s=0))

    assert store.list_records() == [MODEL]
    assert store.get_record("old") is None
    unreadable = store.load().unreadable
    assert sorted(unreadable) == ["broken", "old"]
    assert "deployed by another version of Shoal" in unreadable["old"]
    store.delete_record("old")
    assert list(store.load().unreadable) == ["broken"]
