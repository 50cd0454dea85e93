"""Statements: what a cluster says of a bundle it has trained, or of one that it has taken in.

Train walk: attest.py -> [statement.py] -> training.bundle.manifest
In-toto's Statement v1, https://in-toto.io/Statement/v1. Of what was trained, its predicate is SLSA's provenance,
https://slsa.dev/spec/v1.0/provenance. Of a bundle from elsewhere SLSA's would claim a build that nobody saw, so the
predicate is one of Shoal's own, which says who imported it and that its origin is not known.
"""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import distributions, version
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic.alias_generators import to_camel

from training.bundle.manifest import Manifest
from training.errors import BundleError, summarize_validation_error
from training.registry.entities import Run

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
SLSA_PROVENANCE = "https://slsa.dev/provenance/v1"
IMPORT = "urn:shoal:import:v1"
TRAINING_BUILD = "urn:shoal:training:v1"
CLUSTER_URN = "urn:shoal:cluster:"
"""Followed by a key's id: the builder."""

DATA, CODE = "data", "code"
"""Names of a training's dependencies that are no packages."""


class _Open(BaseModel):
    """A part of a foreign format, whose further keys are ignored, as in-toto and SLSA ask."""

    model_config = ConfigDict(extra="ignore", frozen=True, alias_generator=to_camel)


class Subject(_Open):
    """What a statement is about."""

    name: str = ""
    digest: dict[str, str]


class Dependency(_Open):
    """SLSA's ResourceDescriptor: the data, the code's commit, or a package."""

    name: str = ""
    uri: str = ""
    digest: dict[str, str] = {}
    annotations: dict[str, JsonValue] = {}


class BuildDefinition(_Open):
    """What was trained, by which recipe and of what."""

    build_type: str
    external_parameters: dict[str, JsonValue] = {}
    resolved_dependencies: tuple[Dependency, ...] = ()


class Builder(_Open):
    """Who trained it."""

    id: str
    version: dict[str, str] = {}


class BuildMetadata(_Open):
    """Which run, and when."""

    invocation_id: str = ""
    started_on: str = ""
    finished_on: str = ""


class RunDetails(_Open):
    """Who trained it, and when."""

    builder: Builder
    metadata: BuildMetadata = BuildMetadata()


class TrainingPredicate(_Open):
    """SLSA's provenance."""

    build_definition: BuildDefinition
    run_details: RunDetails

    def find_dependency(self, name: str) -> Dependency | None:
        """The data or the code; None where the statement has none."""
        return next((each for each in self.resolved if each.name == name), None)

    @property
    def resolved(self) -> tuple[Dependency, ...]:
        """All dependencies."""
        return self.build_definition.resolved_dependencies

    @property
    def packages(self) -> tuple[Dependency, ...]:
        """The packages among them."""
        return tuple(each for each in self.resolved if each.uri.startswith("pkg:"))


class ImportPredicate(_Open):
    """Who took a bundle in that was made elsewhere."""

    imported_by: str
    imported_on: str = ""
    origin: str = "unknown"


class Statement(_Open):
    """A statement, whoever has signed it."""

    type: str = Field(alias="_type", pattern=f"^{STATEMENT_TYPE}$")
    subject: tuple[Subject, ...] = Field(min_length=1)
    predicate_type: str
    predicate: dict[str, JsonValue] = {}

    def is_about(self, name: str, digest: str) -> bool:
        """Whether it is about the bundle with this digest, as one of the model with this name."""
        return any(each.name == name and each.digest.get("sha256") == digest for each in self.subject)

    def parse_predicate(self) -> TrainingPredicate | ImportPredicate:
        """What it says of a bundle's origin.

        Raises:
            BundleError: it says something else, as a list of materials or a review does.
        """
        try:
            if self.predicate_type == SLSA_PROVENANCE:
                return TrainingPredicate.model_validate(self.predicate)
            if self.predicate_type == IMPORT:
                return ImportPredicate.model_validate(self.predicate)
        except ValidationError as error:
            reason = summarize_validation_error(error)
            raise BundleError(f"its predicate is not {self.predicate_type}: {reason}") from None
        raise BundleError(
            f"its predicate is {self.predicate_type[:100]!r}, which says nothing of origin; {SLSA_PROVENANCE} does"
        )


def parse_statement(payload: bytes) -> Statement:
    """Parse an envelope's payload.

    Raises:
        BundleError: it is no statement.
    """
    try:
        return Statement.model_validate(json.loads(payload))
    except ValidationError as error:
        raise BundleError(f"its payload is no in-toto statement: {summarize_validation_error(error)}") from None
    except (ValueError, RecursionError) as error:
        raise BundleError(f"its payload is no JSON: {' '.join(str(error).split())[:200]}") from None


def describe_training(manifest: Manifest, run: Run, key_id: str, packages: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Build the statement of a bundle that a run of this cluster has made.

    Args:
        manifest: of the bundle.
        run: that made it.
        key_id: of the cluster.
        packages: (name, version) of each that was installed where the run's driver was.
    """
    return _build_statement(
        manifest,
        SLSA_PROVENANCE,
        {
            "buildDefinition": {
                "buildType": TRAINING_BUILD,
                "externalParameters": {"recipe": manifest.recipe, "origin": run.origin},
                "internalParameters": dict(manifest.training),
                "resolvedDependencies": [*_list_sources(manifest), *map(_describe_package, packages)],
            },
            "runDetails": {
                "builder": {"id": CLUSTER_URN + key_id, "version": {"shoal": version("shoal")}},
                "metadata": {
                    "invocationId": run.run_id,
                    "startedOn": _format_time(datetime.fromtimestamp(run.started_s, UTC)),
                    # What is signed later than it was published was finished when its bundle was.
                    "finishedOn": _format_time(manifest.created),
                },
            },
        },
    )


def describe_import(manifest: Manifest, key_id: str, imported_on: datetime) -> dict[str, Any]:
    """Build the statement of a bundle from elsewhere, for which this cluster vouches without having made it."""
    return _build_statement(
        manifest,
        IMPORT,
        {"importedBy": CLUSTER_URN + key_id, "importedOn": _format_time(imported_on), "origin": "unknown"},
    )


def list_packages() -> list[tuple[str, str]]:
    """Name and version of every package that is installed here, sorted."""
    return sorted({(each.name, each.version) for each in distributions()})


def _build_statement(manifest: Manifest, predicate_type: str, predicate: dict[str, Any]) -> dict[str, Any]:
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": manifest.name, "digest": {"sha256": manifest.digest}}],
        "predicateType": predicate_type,
        "predicate": predicate,
    }


def _list_sources(manifest: Manifest) -> list[dict[str, Any]]:
    sources: list[dict[str, Any]] = []
    if manifest.dataset:
        data = manifest.dataset
        sources.append(
            {
                "name": DATA,
                "digest": {"sha256": data.fingerprint},
                "annotations": {"source": data.source, "license": data.license, "rows": data.rows},
            }
        )
    if manifest.git_commit:
        sources.append({"name": CODE, "digest": {"gitCommit": manifest.git_commit}})
    return sources


def _describe_package(package: tuple[str, str]) -> dict[str, Any]:
    name, number = package
    return {"name": name, "uri": f"pkg:pypi/{name.lower().replace('_', '-')}@{number}"}


def _format_time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
