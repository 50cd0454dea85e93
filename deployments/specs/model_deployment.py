"""Model deployment: a published version, pinned by its digest, and how many replicas of it run.

Deploy walk: cluster.rollout.deploy -> [model_deployment.py] -> deployments.applications
"""

from typing import Literal

from pydantic import Field, model_validator

from deployments.errors import UnknownVersion
from deployments.settings import Limits
from training.schema import StrictModel


class Scale(StrictModel):
    """Number of replicas, and the resources of each."""

    min_replicas: int = Field(
        1, ge=0, description="Minimum number of replicas; 0: it sleeps while nobody calls, and the next call wakes it."
    )
    max_replicas: int = Field(1, ge=1, description="Maximum number of replicas; Serve scales between the two by load.")
    target_ongoing_requests: float = Field(16, gt=0, description="Ongoing requests per replica that Serve aims at.")
    slo_p99_s: float | None = Field(
        None,
        gt=0,
        description="Goal for the 99th percentile of a request's latency, in seconds; rows per pass and "
        "target_ongoing_requests then follow from the replica's profile.",
    )
    upscale_delay_s: float = Field(
        2.0, ge=0, le=3600, description="Seconds for which more replicas must have been needed."
    )
    downscale_delay_s: float = Field(
        60.0, ge=0, le=86_400, description="Seconds for which fewer replicas must have been enough."
    )
    # Serve remembers for some seconds that calls waited, and would wake what sleeps earlier.
    downscale_to_zero_delay_s: float = Field(
        300.0, ge=6, le=86_400, description="Seconds without a call after which the last replica stops."
    )
    cpus: float = Field(1, ge=0, description="CPUs of one replica.")
    gpus: float = Field(0, ge=0, description="GPUs of one replica; a fraction shares one.")

    @model_validator(mode="after")
    def _check_bounds(self) -> "Scale":
        if self.max_replicas < self.min_replicas:
            raise ValueError(
                f"max_replicas={self.max_replicas} is less than min_replicas={self.min_replicas}; raise it"
            )
        return self


class Endpoint(StrictModel):
    """What one replica serves; a change of it means new replicas."""

    name: str
    version: int = Field(ge=1)
    limits: Limits = Limits()

    def check_version(self, version: str) -> None:
        """Check the version that a request names; "" is any.

        Raises:
            UnknownVersion: it is not the deployed one.
        """
        if version not in ("", str(self.version)):
            raise UnknownVersion(f"version {version!r} is not deployed; version {self.version} is")


Dtype = Literal["fp32", "bf16"]


class ModelEndpoint(Endpoint):
    """One version of a model, and the variant that it is served in."""

    digest: str = Field(description="Digest of the bundle's manifest; other content is refused.")
    uri: str = Field(description="URI of the bundle's folder.")
    dtype: Dtype = Field("fp32", description="bf16: matrix products are computed in bf16 (autocast).")
    compile: bool = Field(
        False, description="Compile the net at load time; needs a C++ compiler on the replica's node."
    )

    @property
    def variant(self) -> str:
        """The variant's name: `fp32`, `bf16`, `fp32, compiled` or `bf16, compiled`."""
        return f"{self.dtype}, compiled" if self.compile else self.dtype


class ModelDeployment(StrictModel):
    """The desired state of one model."""

    endpoint: ModelEndpoint
    scale: Scale = Scale()

    @property
    def name(self) -> str:
        """The model's name, which is the Serve application's too."""
        return self.endpoint.name
