"""What a deployment is: a published version, pinned, and how much of it runs."""

from typing import Literal

from pydantic import Field, model_validator

from deployments.settings import Limits
from training.schema import StrictModel


class Scale(StrictModel):
    """How many replicas run, and on what."""

    min_replicas: int = Field(1, ge=1, description="Replicas that always run.")
    max_replicas: int = Field(1, ge=1, description="Replicas at the most; Serve scales between the two by load.")
    target_ongoing_requests: float = Field(16, gt=0, description="Requests inside one replica that Serve aims at.")
    cpus: float = Field(1, ge=0, description="CPUs of one replica.")
    gpus: float = Field(0, ge=0, description="GPUs of one replica; a fraction shares one.")

    @model_validator(mode="after")
    def _ordered(self) -> "Scale":
        if self.max_replicas < self.min_replicas:
            raise ValueError(
                f"max_replicas={self.max_replicas} is less than min_replicas={self.min_replicas}; raise it"
            )
        return self


Dtype = Literal["fp32", "bf16"]


class Endpoint(StrictModel):
    """What one replica serves; a change of it means new replicas."""

    name: str
    version: int
    digest: str = Field(description="Digest of the bundle's manifest; any other content is refused.")
    uri: str = Field(description="Where the bundle's folder is.")
    limits: Limits = Limits()
    dtype: Dtype = Field("fp32", description="bf16: what multiplies matrices does so in bf16; see precision.py.")
    compile: bool = Field(False, description="Compiled when it is loaded; needs a C++ compiler where replicas run.")

    @property
    def variant(self) -> str:
        """How it computes, in words."""
        return f"{self.dtype}, compiled" if self.compile else self.dtype


class Deployment(StrictModel):
    """One model as it shall run."""

    endpoint: Endpoint
    scale: Scale = Scale()

    @property
    def name(self) -> str:
        """The model's name, which is the application's too."""
        return self.endpoint.name
