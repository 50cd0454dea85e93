"""Deployment records: the desired state of a model or pipeline, as the deployment store keeps it.

A pipeline's record holds the signatures of its nodes as they were when it was last checked.
"""

from typing import Literal

from pydantic import Field

from deployments.specs.model_deployment import Endpoint, ModelDeployment, Scale
from deployments.specs.pipeline import Pipeline
from deployments.specs.signature import Signature
from training.schema import StrictModel


class PipelineEndpoint(Endpoint):
    """One version of a pipeline; the version increases each time that the name gets another pipeline."""

    pipeline: Pipeline
    signatures: dict[str, Signature] = Field(description="Signature of each model and pipeline that it calls.")

    @property
    def variant(self) -> str:
        """Always `pipeline`, where a model has its precision."""
        return "pipeline"


class PipelineDeployment(StrictModel):
    """The desired state of one pipeline."""

    kind: Literal["pipeline"] = "pipeline"
    endpoint: PipelineEndpoint

    @property
    def name(self) -> str:
        """The pipeline's name, which is the Serve application's too."""
        return self.endpoint.name

    @property
    def scale(self) -> Scale:
        """Number of replicas and their resources."""
        return self.endpoint.pipeline.scale


ASLEEP = "ASLEEP"
"""In the place of Serve's status RUNNING: nobody calls it, it has no replica, and the next call starts one."""

DeploymentRecord = ModelDeployment | PipelineDeployment
"""What the deployment store holds, by name."""
