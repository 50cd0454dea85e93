"""Training's own part of the settings: where runs, artefacts and the registry live.

`cluster.settings` composes it with the other parts; `python -m training` reads it alone.
"""

import re
from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class TrainingSettings(BaseSettings):
    """Read from `SHOAL_*` variables."""

    model_config = SettingsConfigDict(
        env_prefix="SHOAL_", env_nested_delimiter="__", frozen=True, validate_default=True
    )

    home: Path = Field(Path("~/.shoal"), description="The folder that holds everything Shoal keeps on this machine.")
    registry_uri: str = Field(
        "",
        description="MLflow store of runs, models and versions: a SQLAlchemy or http(s) URI. "
        "Empty: SQLite in HOME/registry.db.",
    )
    artifacts_uri: str = Field(
        "",
        description="Where bundles and checkpoints go: a folder or an object-store URI. Empty: HOME/artifacts.",
    )

    country: str = Field(
        "",
        pattern="^([A-Z]{3})?$",
        description="ISO 3166 code of three letters, as DEU, whose grid estimates a run's CO2. Empty: not estimated.",
    )

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        try:
            return home.expanduser().resolve()
        except RuntimeError as error:
            raise ValueError(str(error)) from None

    @property
    def registry(self) -> str:
        """The MLflow URI in force."""
        return self.registry_uri or f"sqlite:///{self.home / 'registry.db'}"

    @property
    def artifacts(self) -> str:
        """The folder or URI in force."""
        if "://" in self.artifacts_uri:
            return self.artifacts_uri
        return str(Path(self.artifacts_uri).resolve() if self.artifacts_uri else self.home / "artifacts")


def mask_passwords(value: object) -> str:
    """A value as it may be printed: a password inside a URI is hidden."""
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", str(value))
