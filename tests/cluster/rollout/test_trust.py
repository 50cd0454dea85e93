"""Whose bundles are deployed: deployments, canaries, rollbacks and the models of a pipeline pass the same check."""

from pathlib import Path

import pytest

from cluster.local import secrets
from cluster.local.running_cluster import Cluster
from cluster.rollout.canary import begin
from cluster.rollout.deploy import deploy, rollback
from cluster.rollout.trust import reject_untrusted
from cluster.settings import Settings
from deployments.rollout.canary import CanarySpec
from deployments.settings import Limits
from deployments.specs.deployment import PipelineDeployment, PipelineEndpoint
from deployments.specs.model_deployment import ModelDeployment, ModelEndpoint
from deployments.specs.pipeline import ModelNode, Pipeline
from deployments.specs.signature import build_model_signature
from deployments.state.canary_store import CanaryStore
from deployments.state.store import DeploymentStore
from tests.small_bundles import save_image
from tests.training.provenance.forgery import make_key, write_key
from training.bundle.load import load_bundle
from training.bundle.manifest import PROVENANCE_FILE
from training.errors import UntrustedBundleError, UserError
from training.registry.entities import Version
from training.registry.model_registry import Registry
from training.settings import TrainingSettings

UNSIGNED = "flowers:2 may not be deployed where trust is 'signed': it is unsigned"


@pytest.fixture
def settings(registry_settings: TrainingSettings) -> Settings:
    home = registry_settings.home
    for name in (secrets.RAY_TOKEN, secrets.ADMIN_KEY):
        secrets.ensure_secret(home, name)
    return Settings(home=home, trust="signed")


@pytest.fixture
def versions(settings: Settings, table_bundle: Path, tmp_path: Path) -> tuple[Version, Version]:
    """Version 1 is signed, version 2 is not."""
    registry = Registry(settings)
    first = registry.publish(table_bundle)
    registry.sign_version(first)
    save_image(tmp_path / "second", name="flowers")
    return first, registry.publish(tmp_path / "second")


def ignore(status: str) -> None:
    """Nobody watches."""


def make_deployment(version: Version) -> ModelDeployment:
    endpoint = ModelEndpoint(name=version.name, version=version.version, digest=version.digest, uri=version.uri)
    return ModelDeployment(endpoint=endpoint)


def test_only_what_is_signed_is_deployed(
    settings: Settings, cluster: Cluster, versions: tuple[Version, Version]
) -> None:
    deploy(settings, cluster, versions[0], ignore)

    with pytest.raises(UntrustedBundleError, match=UNSIGNED):
        deploy(settings, cluster, versions[1], ignore)

    assert len(DeploymentStore(settings.platform).list_revisions("flowers")) == 1


def test_an_option_asks_for_more_and_never_for_less(
    settings: Settings, cluster: Cluster, versions: tuple[Version, Version], tmp_path: Path
) -> None:
    lenient = Settings(home=settings.home)
    deploy(lenient, cluster, versions[1], ignore)
    with pytest.raises(UntrustedBundleError, match=UNSIGNED):
        deploy(lenient, cluster, versions[1], ignore, trust="signed")
    with pytest.raises(UserError, match="--trust any asks for less than SHOAL_TRUST=signed"):
        deploy(settings, cluster, versions[1], ignore, trust="any")
    key = write_key(tmp_path / "stranger.pem", make_key())

    # This cluster's own key counts always.
    assert deploy(lenient, cluster, versions[0], ignore, trust=str(key)).endpoint.version == 1
    with pytest.raises(UserError, match=r"no public key /nowhere\.pem"):
        deploy(lenient, cluster, versions[0], ignore, trust="/nowhere.pem")


def test_what_was_deployed_before_is_not_rolled_back_to(
    settings: Settings, cluster: Cluster, versions: tuple[Version, Version]
) -> None:
    lenient = Settings(home=settings.home)
    deploy(lenient, cluster, versions[1], ignore)
    deploy(settings, cluster, versions[0], ignore)

    with pytest.raises(UntrustedBundleError, match=UNSIGNED):
        rollback(settings, cluster, "flowers", ignore)


def test_no_canary_is_begun_of_what_is_unsigned(
    settings: Settings, cluster: Cluster, versions: tuple[Version, Version]
) -> None:
    spec = CanarySpec(deployment=make_deployment(versions[1]), stable_version=1, steps=(5.0, 100.0))

    with pytest.raises(UntrustedBundleError, match=UNSIGNED):
        begin(settings, cluster, spec, ignore)

    assert CanaryStore(settings.platform).list_active() == []


def test_a_pipeline_is_as_trusted_as_all_that_it_calls(settings: Settings, versions: tuple[Version, Version]) -> None:
    store = DeploymentStore(settings.platform)
    store.put_record(make_deployment(versions[1]))
    bundle = load_bundle(Registry(settings).fetch_bundle(versions[1]))
    signatures = {"flowers": build_model_signature(bundle.manifest, bundle.example)}
    inner, outer = (
        PipelineDeployment(
            endpoint=PipelineEndpoint(
                name=name,
                version=1,
                pipeline=Pipeline(name=name, root=ModelNode(model=node)),
                signatures={node: signatures["flowers"]},
                limits=Limits(),
            )
        )
        for name, node in (("inner", "flowers"), ("outer", "inner"))
    )
    store.put_record(inner)

    for pipeline in (inner, outer):
        with pytest.raises(UntrustedBundleError, match=UNSIGNED):
            reject_untrusted(settings, pipeline)

    store.put_record(make_deployment(versions[0]))
    reject_untrusted(settings, outer)


def test_a_signature_that_is_altered_after_the_import_is_found(
    settings: Settings, cluster: Cluster, versions: tuple[Version, Version]
) -> None:
    file = Registry(settings).fetch_bundle(versions[0]) / PROVENANCE_FILE
    file.write_bytes(file.read_bytes().replace(b'"payload":"ey', b'"payload":"fy'))

    with pytest.raises(UntrustedBundleError, match=r"flowers:1 may not be deployed"):
        deploy(settings, cluster, versions[0], ignore)


@pytest.mark.parametrize("rule", ["sigend", "", ":", "Any"])
def test_a_rule_that_is_none_is_refused_at_once(rule: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="write any, signed, or PEM files and folders of them"):
        Settings(home=tmp_path, trust=rule)
