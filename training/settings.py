"""Training's part of the settings: where runs, artifacts and the registry are stored.

`cluster.settings` composes it with the other parts; `python -m training.run` reads this part only.
"""

import re
from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class TrainingSettings(BaseSettings):
    """Read from `SHOAL_*` variables."""

    model_config = SettingsConfigDict(
        # A variable that is set to nothing is not set: SHOAL_HOME= would be the current folder.
        env_ignore_empty=True,
        env_prefix="SHOAL_",
        env_nested_delimiter="__",
        frozen=True,
        validate_default=True,
    )

    home: Path = Field(Path("~/.shoal"), description="The folder of everything that Shoal stores on this machine.")
    registry_uri: str = Field(
        "",
        description="MLflow store of runs, models and versions: a SQLAlchemy or http(s) URI. Empty: SQLite in "
        "HOME/registry.db.",
    )
    artifacts_uri: str = Field(
        "",
        description="Where bundles and checkpoints are stored: a folder or an object-store URI. Empty: HOME/artifacts.",
    )
    country: str = Field(
        "",
        pattern="^([A-Z]{3})?$",
        description="ISO 3166 code of three letters, as DEU: the grid that CO2 is estimated by. Empty: not estimated.",
    )

    @field_validator("home")
    @classmethod
    def _resolve_home(cls, home: Path) -> Path:
        try:
            return home.expanduser().resolve()
        except RuntimeError as error:
            raise ValueError(str(error)) from None

    @property
    def registry(self) -> str:
        """The MLflow URI, with its default."""
        return self.registry_uri or f"sqlite:///{self.home / 'registry.db'}"

    @property
    def artifacts(self) -> str:
        """The folder or URI of artifacts, with its default."""
        if "://" in self.artifacts_uri:
            return self.artifacts_uri
        return str(Path(self.artifacts_uri).resolve() if self.artifacts_uri else self.home / "artifacts")


def mask_passwords(value: object) -> str:
    """Format a value for printing, without the passwords that URIs in it may hold: before the host, or in the query."""
    text = re.sub(r"(://[^:/@\s]*):\S*@", r"\1:***@", str(value))
    return re.sub(r"(?i)([?&]\w*(?:password|secret|token)\w*)=[^&\s'\"]+", r"\1=***", text)
