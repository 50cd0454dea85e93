"""All settings, as one Pydantic class that refuses unknown keys: each package's own part, and the cluster's.

Where a value comes from, first wins: a `SHOAL_*` variable, the `--settings` file, the default.
"""

import ipaddress
import os
from functools import reduce
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsError

from cluster.local.processes import CLUSTER_ID_VARIABLE
from deployments.edge.state import EDGE_DIR_VARIABLE
from deployments.settings import ServingSettings
from training.errors import Location, UserError, suggest_key, summarize_validation_error

PREFIX = "SHOAL_"


class Settings(ServingSettings):
    """Every setting of Shoal: serving's part, which holds training's, and how the cluster comes up."""

    from_file: ClassVar[dict[str, Any]] = {}

    host: str = Field(
        "127.0.0.1",
        description="Address that everything listens on. 127.0.0.1: this machine alone. A cluster of several nodes "
        "needs 0.0.0.0 and a network that lets only its nodes and callers in.",
    )
    http_port: int = Field(8000, ge=0, le=65535, description="Port of the HTTP endpoint; 0 picks a free one.")
    grpc_port: int = Field(8001, ge=0, le=65535, description="Port of the gRPC endpoint; 0 picks a free one.")
    dashboard_port: int = Field(8265, ge=0, le=65535, description="Port of Ray's dashboard and job API; 0: a free one.")
    ray_port: int = Field(0, ge=0, le=65535, description="Port that other nodes join at; 0 picks a free one.")
    cpus: int = Field(
        0,
        ge=0,
        description="CPUs that Ray may hand out on this machine; 0 means twice its cores and two more, since replicas "
        "that wait and workers that train share them.",
    )
    allow_plaintext: bool = Field(
        False,
        description="Whether requests and their keys may cross a network in plain HTTP; needed for another HOST than "
        "127.0.0.1 without TLS_CERT, as where a proxy in front ends TLS.",
    )
    allow_plaintext_nodes: bool = Field(
        False,
        description="Whether Ray's own traffic between nodes (its token, calls by handles, weights, the dashboard) may "
        "cross a network unencrypted, one of the cluster's own or a VPN; needed for another HOST than 127.0.0.1.",
    )

    @field_validator("host")
    @classmethod
    def _an_address(cls, host: str) -> str:
        host = "127.0.0.1" if host == "localhost" else host
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise ValueError("must be an IPv4 address: 127.0.0.1, 0.0.0.0 or one of this machine's") from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Variables before the file."""
        return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=cls.from_file)

    def as_environment(self) -> dict[str, str]:
        """The variables that make a process on the cluster see these same settings."""
        return {variable_name(key): str(value) for key, value in self.flatten().items()}

    def flatten(self) -> dict[str, Any]:
        """Every setting by its dotted key: `http_port`, `limits.max_rows`."""
        return {key: reduce(getattr, key.split("."), self) for key in list_fields()}

    def origin(self, key: str) -> str:
        """Where a setting's value came from."""
        if os.environ.get(variable_name(key)):
            return variable_name(key)
        try:
            reduce(lambda at, part: at[part], key.split("."), self.from_file)
        except (KeyError, TypeError):
            return "default"
        return "file"


def list_fields(model: type[BaseModel] | None = None, prefix: str = "") -> dict[str, FieldInfo]:
    """Every setting's definition, by its dotted key."""
    found: dict[str, FieldInfo] = {}
    for name, field in (model or Settings).model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= list_fields(field.annotation, f"{prefix}{name}.")
        else:
            found[prefix + name] = field
    return found


def variable_name(key: str) -> str:
    """The environment variable of a dotted key."""
    return PREFIX + key.replace(".", "__").upper()


def load_settings(file: Path | None = None) -> Settings:
    """Read variables and an optional YAML file.

    Raises:
        UserError: an unknown variable or key, or a value that its rule refuses.
    """
    variables = [variable_name(key) for key in list_fields()]
    allowed = {*variables, *INTERNAL_VARIABLES}
    unknown = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in allowed)
    if unknown:
        from difflib import get_close_matches

        # Without what all have in common, which would make any two similar.
        names = {variable.removeprefix(PREFIX): variable for variable in variables}
        similar = get_close_matches(unknown[0].removeprefix(PREFIX), names, n=1)
        hint = f"did you mean {names[similar[0]]}? " if similar else ""
        raise UserError(f"{', '.join(unknown)} is no setting of Shoal; {hint}`shoal settings` lists them all")
    Settings.from_file = _read(file) if file else {}
    try:
        return Settings()
    except ValidationError as error:
        raise UserError(f"settings: {summarize_validation_error(error, _list_valid_keys)}") from error
    except SettingsError as error:
        raise UserError(f"settings: {error}") from error


INTERNAL_VARIABLES = {CLUSTER_ID_VARIABLE, EDGE_DIR_VARIABLE}
"""Set by `cluster.local.start` for the processes that it starts; no setting."""


def _read(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text()) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"settings file {file} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"settings file {file} holds a {type(content).__name__}; write key: value lines")
    for key, value in content.items():
        if "." in str(key):
            if key not in list_fields():
                raise UserError(f"settings file {file}: no key {key!r}; {suggest_key(key, list_fields())}")
            outer, inner = key.split(".")
            raise UserError(
                f"settings file {file}: {key!r} is a key inside of another; write `{outer}: {{{inner}: {value}}}`"
            )
    return content


def _list_valid_keys(location: Location) -> list[str]:
    """The keys at a location of the file: names of settings, and of what holds some."""
    prefix = "".join(f"{part}." for part in location)
    keys = [key.removeprefix(prefix).partition(".")[0] for key in list_fields() if key.startswith(prefix)]
    return list(dict.fromkeys(keys))


def check_home(settings: Settings) -> None:
    """Raise UserError where SHOAL_HOME, or the folder that it would be made in, is none that can be written."""
    home = settings.home
    if home.exists() and not home.is_dir():
        raise UserError(f"SHOAL_HOME {home} is no folder; set it to one")
    existing = next(path for path in (home, *home.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        reason = "read-only for you" if existing.is_dir() else "no folder"
        raise UserError(
            f"SHOAL_HOME {home} cannot be written ({existing} is {reason}); set it to a folder that you may write"
        )
