"""A pipeline is rolled back like a model, and checked against the models that are deployed now."""

from pathlib import Path

import pytest

from cluster.local import secrets
from cluster.local.running_cluster import Cluster
from cluster.rollout.deploy import deploy, deploy_pipeline, rollback, undeploy
from cluster.settings import Settings
from deployments.pipelines import FanOut, ModelNode, Pipeline
from deployments.specs.deployment import PipelineDeployment
from deployments.state.store import DeploymentStore
from training.errors import UserError
from training.registry.model_registry import Registry
from training.settings import TrainingSettings

ONCE = Pipeline(name="p", root=ModelNode(model="flowers"))
TWICE = Pipeline(name="p", root=FanOut(nodes={"a": ModelNode(model="flowers"), "b": ModelNode(model="flowers")}))


def ignore(status: str) -> None:
    """Nobody watches."""


def test_a_pipeline_is_rolled_back_also_after_it_was_undeployed(
    registry_settings: TrainingSettings, table_bundle: Path, cluster: Cluster
) -> None:
    settings = Settings(home=registry_settings.home)
    secrets.ensure_secret(settings.home, secrets.RAY_TOKEN)
    store = DeploymentStore.open(settings)
    flowers = Registry(settings).publish(table_bundle)
    deploy(settings, cluster, flowers, ignore)
    deploy_pipeline(settings, cluster, ONCE, ignore)
    deploy_pipeline(settings, cluster, TWICE, ignore)

    record, target = rollback(settings, cluster, "p", ignore)

    assert isinstance(record, PipelineDeployment)
    assert (record.endpoint.pipeline, record.endpoint.version, target.number) == (ONCE, 3, 1)
    assert store.get_record("p") == record
    # Another deployment of the model gives each pipeline that calls it a revision of its own.
    deploy(settings, cluster, flowers, ignore, dtype="bf16")
    actions = [(each.action, each.outcome) for each in store.list_revisions("p")]
    assert actions == [(each, "succeeded") for each in ("refresh", "rollback", "apply", "apply")]

    undeploy(settings, None, "p", ignore)
    undeploy(settings, None, "flowers", ignore)
    with pytest.raises(UserError, match="no model 'flowers' is deployed"):
        rollback(settings, cluster, "p", ignore)
    assert rollback(settings, cluster, "flowers", ignore)[0].endpoint.variant == "bf16"
    again, _ = rollback(settings, cluster, "p", ignore)
    assert isinstance(again, PipelineDeployment)
    assert again.endpoint.pipeline == ONCE
