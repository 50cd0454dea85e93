"""Serving's own part of the settings: the limits that every request meets, and where deployments are noted.

It holds training's part too, since what is served comes from the registry.
"""

from pydantic import Field

from training.schema import StrictModel
from training.settings import TrainingSettings


class Limits(StrictModel):
    """What a replica refuses; fixed when it is deployed."""

    max_body_bytes: int = Field(32 * 1024**2, ge=1024, description="Largest request body, in bytes; more gets 413.")
    max_image_pixels: int = Field(
        16_000_000,
        ge=1,
        description="Most pixels, once decoded, of all pictures of a request, read from their headers; more gets 413.",
    )
    max_rows: int = Field(65_536, ge=1, description="Most rows in one request; more gets 413.")
    max_batch_rows: int = Field(64, ge=1, description="Most rows of one forward pass.")
    max_queue: int = Field(512, ge=1, description="Most requests inside one replica at a time; more get 503.")
    request_timeout_s: float = Field(
        30.0, gt=0, description="Seconds until a request is given up with 504; of a stream, until its first event."
    )
    stream_timeout_s: float = Field(
        300.0, gt=0, description="Seconds that a stream may take once it has begun; then it ends with an error event."
    )


class ServingSettings(TrainingSettings):
    """Read from `SHOAL_*` variables; the limits as SHOAL_LIMITS__MAX_ROWS and so on."""

    limits: Limits = Field(Limits(), description="Limits of every request.")
    platform_uri: str = Field(
        "", description="Where deployments are noted: a SQLAlchemy URI. Empty: SQLite in HOME/platform.db."
    )

    @property
    def platform(self) -> str:
        """The SQLAlchemy URI in force."""
        return self.platform_uri or f"sqlite:///{self.home / 'platform.db'}"
