"""Compatibility: whether a pipeline's nodes fit the deployed models, and a changed model still fits its pipelines.

Deploy walk: cluster.rollout.dependents -> [compatibility.py] -> pipeline_plan.py
A pipeline pins no versions, so a model's next version is checked against every pipeline that calls it, directly or
through another pipeline.
"""

from collections.abc import Callable, Iterable

from deployments.pipelines.pipeline_plan import build_pipeline_signature, build_plan
from deployments.settings import Limits
from deployments.specs.deployment import DeploymentRecord, PipelineDeployment, PipelineEndpoint
from deployments.specs.model_deployment import ModelDeployment
from deployments.specs.pipeline import Pipeline
from deployments.specs.signature import Signature
from training.errors import UserError

SignatureLoader = Callable[[ModelDeployment], Signature]
"""Loads a model's signature from its bundle."""


class PipelineResolver:
    """All deployments, with the signature of each."""

    def __init__(self, records: Iterable[DeploymentRecord], load_signature: SignatureLoader) -> None:
        self._records = {record.name: record for record in records}
        self._load_signature = load_signature
        self._signatures: dict[str, Signature] = {}

    def resolve(self, pipeline: Pipeline, limits: Limits, previous: PipelineEndpoint | None) -> PipelineEndpoint:
        """Check a pipeline against the models that it calls.

        Args:
            pipeline: as written.
            limits: of its requests; the pipeline's own timeout takes precedence.
            previous: the endpoint deployed under its name; if its nodes are the same, its version is kept.

        Returns:
            What a replica serves.

        Raises:
            UserError: a model is not deployed, the pipeline calls itself, or a node does not fit; the message names it.
        """
        if pipeline.timeout_s is not None:
            limits = limits.model_copy(update={"request_timeout_s": pipeline.timeout_s})
        version = 1 if previous is None else previous.version + (previous.pipeline.root != pipeline.root)
        for name in pipeline.list_models():
            cycle = self._find_call_path(name, pipeline.name)
            if cycle:
                raise UserError(f"{pipeline.name} would call itself: {' -> '.join((pipeline.name, *cycle))}")
        endpoint = PipelineEndpoint(
            name=pipeline.name,
            version=version,
            pipeline=pipeline,
            signatures={name: self.get_signature(name) for name in pipeline.list_models()},
            limits=limits,
        )
        build_plan(endpoint)
        return endpoint

    def get_signature(self, name: str) -> Signature:
        """Get the signature of a deployed model or pipeline; raises UserError if none has this name."""
        if name not in self._signatures:
            record = self._records.get(name)
            if record is None:
                deployed = ", ".join(self._records) or "none"
                raise UserError(f"no model {name!r} is deployed; deployed: {deployed}; `shoal deploy {name}` first")
            self._signatures[name] = (
                build_pipeline_signature(self.refresh_endpoint(record))
                if isinstance(record, PipelineDeployment)
                else self._load_signature(record)
            )
        return self._signatures[name]

    def refresh_endpoint(self, deployment: PipelineDeployment) -> PipelineEndpoint:
        """Update a pipeline's endpoint to the current signatures of the models that it calls."""
        endpoint = deployment.endpoint
        signatures = {name: self.get_signature(name) for name in endpoint.signatures}
        return endpoint.model_copy(update={"signatures": signatures})

    def find_dependents(self, name: str) -> list[PipelineDeployment]:
        """Find every pipeline that calls this one, directly or not, with current signatures.

        Raises:
            UserError: one of them would not work any more; the message names it and its node.
        """
        dependents = []
        # Inner ones first, so that the message names the one that breaks, not one that calls it.
        for deployment in sorted(self._records.values(), key=lambda record: self._get_depth(record.name)):
            if deployment.name == name or not isinstance(deployment, PipelineDeployment):
                continue
            if self._find_call_path(deployment.name, name):
                try:
                    endpoint = self.refresh_endpoint(deployment)
                    build_plan(endpoint)
                except UserError as error:
                    raise UserError(
                        f"pipeline {deployment.name} calls {name} and would not work any more: {error}; "
                        f"`shoal apply` a pipeline that fits, or `shoal undeploy {deployment.name}`"
                    ) from None
                dependents.append(deployment.model_copy(update={"endpoint": endpoint}))
        return dependents

    def _get_depth(self, name: str) -> int:
        """Levels of pipelines below and including this one: 0 for a model."""
        record = self._records.get(name)
        if not isinstance(record, PipelineDeployment):
            return 0
        return 1 + max(self._get_depth(model) for model in record.endpoint.signatures)

    def _find_call_path(self, caller: str, callee: str) -> tuple[str, ...]:
        """Find the pipelines through which one calls the other, both included; empty where it does not."""
        if caller == callee:
            return (caller,)
        record = self._records.get(caller)
        if isinstance(record, PipelineDeployment):
            for model in record.endpoint.signatures:
                rest = self._find_call_path(model, callee)
                if rest:
                    return (caller, *rest)
        return ()
