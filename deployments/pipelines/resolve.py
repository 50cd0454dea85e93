"""Resolution: what a pipeline's steps are just now, whether they fit, and which pipelines need which models.

Deploy walk: cluster.rollout.dependents -> [resolve.py] -> plan.py
Of all deployments together: a model's next version is checked against every pipeline that calls it, directly or through
another pipeline.
"""

from collections.abc import Callable, Iterable

from deployments.pipelines.plan import build_plan, pipeline_signature
from deployments.settings import Limits
from deployments.specs.model import Deployment
from deployments.specs.pipeline import Pipeline
from deployments.specs.record import DeploymentRecord, PipelineDeployment, PipelineEndpoint
from deployments.specs.signature import Signature
from training.errors import UserError

SignatureOf = Callable[[Deployment], Signature]


class PipelineResolver:
    """All that is deployed, with the signature of each."""

    def __init__(self, noted: Iterable[DeploymentRecord], signature_of: SignatureOf) -> None:
        """Take what is deployed, and what tells a model's signature from its bundle."""
        self._noted = {each.name: each for each in noted}
        self._signature_of = signature_of
        self._known: dict[str, Signature] = {}

    def resolve(self, pipeline: Pipeline, limits: Limits, before: PipelineEndpoint | None) -> PipelineEndpoint:
        """Check a pipeline against its steps and make it what a replica serves.

        Args:
            pipeline: as written.
            limits: of its requests, but for its own timeout.
            before: what is deployed under its name; the same pipeline keeps its version.

        Raises:
            Mistake: a step is not deployed, calls the pipeline itself, or does not fit; the message names it.
        """
        if pipeline.timeout_s is not None:
            limits = limits.model_copy(update={"request_timeout_s": pipeline.timeout_s})
        version = 1 if before is None else before.version + (before.pipeline.root != pipeline.root)
        for name in pipeline.list_models():
            way = self._call_path(name, pipeline.name)
            if way:
                raise UserError(f"{pipeline.name} would call itself: {' -> '.join((pipeline.name, *way))}")
        endpoint = PipelineEndpoint(
            name=pipeline.name,
            version=version,
            pipeline=pipeline,
            signatures={name: self.find_signature(name) for name in pipeline.list_models()},
            limits=limits,
        )
        build_plan(endpoint)
        return endpoint

    def find_signature(self, name: str) -> Signature:
        """What a deployed model or pipeline takes and gives; raises Mistake if there is none of this name."""
        if name not in self._known:
            found = self._noted.get(name)
            if found is None:
                deployed = ", ".join(self._noted) or "none"
                raise UserError(f"no model {name!r} is deployed; deployed: {deployed}; `shoal deploy {name}` first")
            fresh = pipeline_signature(self.refresh(found)) if isinstance(found, PipelineDeployment) else None
            self._known[name] = fresh or self._signature_of(found)  # type: ignore[arg-type]
        return self._known[name]

    def refresh(self, deployment: PipelineDeployment) -> PipelineEndpoint:
        """A deployed pipeline with its steps as they are now."""
        endpoint = deployment.endpoint
        steps = {name: self.find_signature(name) for name in endpoint.signatures}
        return endpoint.model_copy(update={"signatures": steps})

    def find_dependents(self, name: str) -> list[PipelineDeployment]:
        """Every pipeline that calls this one, directly or not, with its steps as they are now.

        Raises:
            Mistake: one of them does not work any more; the message names it and its step.
        """
        found = []
        # Inner ones first, so that the one that does not work is named, and not one around it.
        for deployment in sorted(self._noted.values(), key=lambda each: self._depth(each.name)):
            if deployment.name == name or not isinstance(deployment, PipelineDeployment):
                continue
            if self._call_path(deployment.name, name):
                try:
                    endpoint = self.refresh(deployment)
                    build_plan(endpoint)
                except UserError as error:
                    raise UserError(
                        f"pipeline {deployment.name} calls {name} and would not work any more: {error}; "
                        f"`shoal apply` a pipeline that fits, or `shoal undeploy {deployment.name}`"
                    ) from None
                found.append(deployment.model_copy(update={"endpoint": endpoint}))
        return found

    def _depth(self, name: str) -> int:
        """How many pipelines deep it is: 0 for a model."""
        found = self._noted.get(name)
        if not isinstance(found, PipelineDeployment):
            return 0
        return 1 + max(self._depth(step) for step in found.endpoint.signatures)

    def _call_path(self, start: str, end: str) -> tuple[str, ...]:
        """How one calls the other, through which pipelines; empty where it does not."""
        if start == end:
            return (start,)
        found = self._noted.get(start)
        if isinstance(found, PipelineDeployment):
            for step in found.endpoint.signatures:
                rest = self._call_path(step, end)
                if rest:
                    return (start, *rest)
        return ()
