"""A pipeline as it is deployed: what its author wrote, and what was known of its steps when that was checked last."""

from typing import Literal

from pydantic import Field

from deployments.pipelines import plan
from deployments.pipelines.node import Plan
from deployments.pipelines.signature import Signature
from deployments.pipelines.spec import Pipeline
from deployments.settings import Limits
from deployments.spec import Scale
from training.closed import Closed


class PipelineEndpoint(Closed):
    """What one replica serves; a change of it means new replicas."""

    name: str
    version: int = Field(ge=1, description="1, and one more each time that another pipeline is applied under the name.")
    pipeline: Pipeline
    steps: dict[str, Signature] = Field(description="What each model that it calls takes and gives.")
    limits: Limits = Limits()

    @property
    def form(self) -> str:
        """What stands in the place of a net's precision."""
        return "pipeline"

    def plan(self) -> Plan:
        """Check the pipeline and make it ready to run; raises Mistake where its steps do not fit."""
        return plan.build(self.pipeline, self.steps)

    def signature(self) -> Signature:
        """What the pipeline takes and gives, for those that call it."""
        made = self.plan()
        return Signature(takes=made.takes, gives=made.gives, example=made.example)


class PipelineDeployment(Closed):
    """One pipeline as it shall run."""

    kind: Literal["pipeline"] = "pipeline"
    endpoint: PipelineEndpoint

    @property
    def name(self) -> str:
        """The pipeline's name, which is the application's too."""
        return self.endpoint.name

    @property
    def scale(self) -> Scale:
        """How many replicas there are."""
        return self.endpoint.pipeline.scale
