"""Trust check: refuses what no signature that counts vouches for, before anything is written.

Deploy walk: deploy.py or canary.py -> [trust.py] -> training.provenance.verification
Deployments, rollbacks, canaries and promotions pass it, and so do the models that a pipeline calls. The setting holds
for all of them, and for each replica that starts; `--trust` of a command may only ask for more.
"""

from collections.abc import Iterator

from cluster.settings import Settings
from deployments.specs.deployment import DeploymentRecord, PipelineDeployment
from deployments.specs.model_deployment import ModelDeployment
from deployments.state.store import DeploymentStore
from training.errors import UserError


def reject_untrusted(settings: Settings, record: DeploymentRecord, rule: str = "") -> None:
    """Refuse a deployment whose bundle, or one that it calls, has not the signature that it needs.

    Args:
        settings: whose rule holds.
        record: what is to be deployed.
        rule: a further one; see training.provenance.trust.RULES.

    Raises:
        UserError: a rule names no key, or the further one asks for less than the settings'.
        UntrustedBundleError: a bundle does not meet them.
    """
    rules = [each for each in dict.fromkeys((settings.trust, rule)) if each not in ("", "any")]
    if rule == "any" and rules:
        raise UserError(
            f"--trust any asks for less than SHOAL_TRUST={settings.trust}, which holds for every deployment; leave it "
            "out, or change the setting and start the cluster anew"
        )
    if not rules:
        return
    from training.provenance.trust import load_policy
    from training.provenance.verification import fetch_provenance, require_trusted

    policies = [load_policy(settings.home, each) for each in rules]
    for model in _list_models(DeploymentStore(settings.platform), record, set()):
        endpoint = model.endpoint
        content = fetch_provenance(endpoint.uri, settings.home / "cache" / endpoint.digest)
        for policy in policies:
            require_trusted(f"{endpoint.name}:{endpoint.version}", content, endpoint.digest, policy)


def _list_models(store: DeploymentStore, record: DeploymentRecord, seen: set[str]) -> Iterator[ModelDeployment]:
    """The models of a deployment: itself, or those that a pipeline and the pipelines in it call."""
    if isinstance(record, ModelDeployment):
        yield record
    if isinstance(record, PipelineDeployment):
        for name in record.endpoint.signatures.keys() - seen:
            seen.add(name)
            called = store.get_record(name)
            if called is not None:
                yield from _list_models(store, called, seen)
