"""Serving's part of the settings: the limits of every request, and the database of the deployments.

It extends training's part, since what is served comes from the registry.
"""

from pydantic import Field

from training.schema import StrictModel
from training.settings import TrainingSettings


class Limits(StrictModel):
    """Limits that a replica enforces; fixed when it is deployed."""

    max_body_bytes: int = Field(32 * 1024**2, ge=1024, description="Maximum bytes of a request body; more gets 413.")
    max_image_pixels: int = Field(
        16_000_000,
        ge=1,
        description="Maximum decoded pixels of all images in a request, read from their headers; more gets 413.",
    )
    max_decoded_bytes: int = Field(
        256 * 1024**2,
        ge=1024,
        description="Maximum bytes that a request takes once it is decoded: tensors, pixels at the model's own size, "
        "tokens, JSON values; more gets 413.",
    )
    max_generated_tokens: int = Field(
        32_768, ge=1, description="Maximum tokens that a request generates, all rows together; more gets 413."
    )
    max_rows: int = Field(65_536, ge=1, description="Maximum rows of a request; more gets 413.")
    max_batch_rows: int = Field(64, ge=1, description="Maximum rows of a forward pass.")
    max_queue: int = Field(512, ge=1, description="Maximum concurrent requests in one replica; more get 503.")
    request_timeout_s: float = Field(
        30.0, gt=0, description="Seconds until a request is canceled with 504; of a stream, until its first event."
    )
    stream_timeout_s: float = Field(
        300.0,
        gt=0,
        description="Seconds that a stream may take after its first event; then it ends with an error event.",
    )
    stream_stall_timeout_s: float = Field(
        30.0, gt=0, description="Seconds that a caller may take to read an event; then its connection is closed."
    )


class ServingSettings(TrainingSettings):
    """Read from `SHOAL_*` variables; the limits as SHOAL_LIMITS__MAX_ROWS and so on."""

    limits: Limits = Field(Limits(), description="Limits of every request.")
    platform_uri: str = Field(
        "", description="Database of the deployments: a SQLAlchemy URI. Empty: SQLite in HOME/platform.db."
    )

    @property
    def platform(self) -> str:
        """The SQLAlchemy URI in use."""
        return self.platform_uri or f"sqlite:///{self.home / 'platform.db'}"
