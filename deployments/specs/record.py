"""A pipeline as it is deployed: what its author wrote, and what was known of its steps when that was checked last."""

from typing import Literal

from pydantic import Field

from deployments.settings import Limits
from deployments.specs.model import Deployment, Scale
from deployments.specs.pipeline import Pipeline
from deployments.specs.signature import Signature
from training.schema import StrictModel


class PipelineEndpoint(StrictModel):
    """What one replica serves; a change of it means new replicas."""

    name: str
    version: int = Field(ge=1, description="1, and one more each time that another pipeline is applied under the name.")
    pipeline: Pipeline
    signatures: dict[str, Signature] = Field(description="What each model that it calls takes and gives.")
    limits: Limits = Limits()

    @property
    def variant(self) -> str:
        """What stands in the place of a net's precision."""
        return "pipeline"


class PipelineDeployment(StrictModel):
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


DeploymentRecord = Deployment | PipelineDeployment
"""What the database of deployments holds, by name."""
