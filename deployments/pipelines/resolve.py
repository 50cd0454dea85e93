"""Resolution: what a pipeline's steps are just now, whether they fit, and which pipelines need which models.

Deploy walk: cluster.composition -> [resolve.py] -> plan.py
Of all deployments together: a model's next version is checked against every pipeline that calls it, directly or through
another pipeline.
"""

from collections.abc import Callable, Iterable

from deployments.pipelines.deployment import PipelineDeployment, PipelineEndpoint
from deployments.pipelines.signature import Signature
from deployments.pipelines.spec import Pipeline
from deployments.settings import Limits
from deployments.spec import Deployment
from training.errors import Mistake

Noted = Deployment | PipelineDeployment
SignatureOf = Callable[[Deployment], Signature]


class Resolution:
    """All that is deployed, with the signature of each."""

    def __init__(self, noted: Iterable[Noted], signature_of: SignatureOf) -> None:
        """Take what is deployed, and what tells a model's signature from its bundle."""
        self._noted = {each.name: each for each in noted}
        self._signature_of = signature_of
        self._known: dict[str, Signature] = {}

    def endpoint(self, pipeline: Pipeline, limits: Limits, before: PipelineEndpoint | None) -> PipelineEndpoint:
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
        for name in pipeline.models():
            way = self._way(name, pipeline.name)
            if way:
                raise Mistake(f"{pipeline.name} would call itself: {' -> '.join((pipeline.name, *way))}")
        endpoint = PipelineEndpoint(
            name=pipeline.name,
            version=version,
            pipeline=pipeline,
            steps={name: self.signature(name) for name in pipeline.models()},
            limits=limits,
        )
        endpoint.plan()
        return endpoint

    def signature(self, name: str) -> Signature:
        """What a deployed model or pipeline takes and gives; raises Mistake if there is none of this name."""
        if name not in self._known:
            found = self._noted.get(name)
            if found is None:
                deployed = ", ".join(self._noted) or "none"
                raise Mistake(f"no model {name!r} is deployed; deployed: {deployed}; `shoal deploy {name}` first")
            fresh = self.checked(found).signature() if isinstance(found, PipelineDeployment) else None
            self._known[name] = fresh or self._signature_of(found)  # type: ignore[arg-type]
        return self._known[name]

    def checked(self, deployment: PipelineDeployment) -> PipelineEndpoint:
        """A deployed pipeline with its steps as they are now."""
        endpoint = deployment.endpoint
        steps = {name: self.signature(name) for name in endpoint.steps}
        return endpoint.model_copy(update={"steps": steps})

    def followers(self, name: str) -> list[PipelineDeployment]:
        """Every pipeline that calls this one, directly or not, with its steps as they are now.

        Raises:
            Mistake: one of them does not work any more; the message names it and its step.
        """
        found = []
        # Inner ones first, so that the one that does not work is named, and not one around it.
        for deployment in sorted(self._noted.values(), key=lambda each: self._depth(each.name)):
            if deployment.name == name or not isinstance(deployment, PipelineDeployment):
                continue
            if self._way(deployment.name, name):
                try:
                    endpoint = self.checked(deployment)
                    endpoint.plan()
                except Mistake as error:
                    raise Mistake(
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
        return 1 + max(self._depth(step) for step in found.endpoint.steps)

    def _way(self, start: str, end: str) -> tuple[str, ...]:
        """How one calls the other, through which pipelines; empty where it does not."""
        if start == end:
            return (start,)
        found = self._noted.get(start)
        if isinstance(found, PipelineDeployment):
            for step in found.endpoint.steps:
                rest = self._way(step, end)
                if rest:
                    return (start, *rest)
        return ()
