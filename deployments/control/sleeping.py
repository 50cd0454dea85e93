"""Sleeping models: what is told of a model without a replica, out of its bundle, so that asking does not wake it.

Request walk: app.py or grpc_gateway.py -> [sleeping.py] -> training.registry.storage
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from deployments.control.status import DeploymentStatus
from deployments.pipelines.executor import encode_metadata as encode_pipeline_metadata
from deployments.pipelines.pipeline_plan import build_pipeline_signature
from deployments.protocols.oip.codec import encode_metadata
from deployments.specs.deployment import DeploymentRecord, PipelineDeployment
from training.bundle.manifest import EXAMPLE_FILE, Manifest
from training.bundle.verify import verify_bundle
from training.registry import storage

LoadContent = Callable[[str, str], tuple[Manifest, dict[str, Any]]]
"""From a bundle's URI and digest to its manifest and example request."""


class ModelDescription(NamedTuple):
    """What a replica would answer.

    Attributes:
        metadata: JSON, by the Open Inference Protocol.
        example: a valid request of `predict`.
    """

    metadata: bytes
    example: dict[str, Any]


class SleepingModels:
    """Describes models that sleep."""

    def __init__(self, status: DeploymentStatus, load_content: LoadContent) -> None:
        self._status, self._load_content = status, load_content
        self._descriptions: dict[str, tuple[DeploymentRecord, ModelDescription]] = {}

    def describe(self, name: str, version: str) -> ModelDescription | None:
        """Describe a model or pipeline that sleeps; None for one that does not, and one that is not deployed.

        Raises:
            UnknownVersion: another version than this is deployed.
            ShoalError: its bundle is damaged, or cannot be fetched.
        """
        record = self._status.find_sleeping(name)
        if record is None:
            return None
        record.endpoint.check_version(version)
        last, description = self._descriptions.get(name, (None, None))
        if description is None or last != record:
            description = self._describe(record)
            self._descriptions[name] = record, description
        return description

    def _describe(self, record: DeploymentRecord) -> ModelDescription:
        if isinstance(record, PipelineDeployment):
            example = {"inputs": [build_pipeline_signature(record.endpoint).example]}
            return ModelDescription(encode_pipeline_metadata(record.endpoint), example)
        endpoint = record.endpoint
        manifest, example = self._load_content(endpoint.uri, endpoint.digest)
        return ModelDescription(encode_metadata(manifest, str(endpoint.version)), example)


def load_bundle_content(cache: Path, uri: str, digest: str) -> tuple[Manifest, dict[str, Any]]:
    """Load a bundle's manifest and example request.

    Args:
        cache: folder of downloaded bundles.
        uri: of the bundle's folder.
        digest: of its manifest.

    Raises:
        ShoalError: the bundle is damaged, another one than the digest's, or cannot be fetched.
    """

    def load(folder: Path) -> tuple[Manifest, dict[str, Any]]:
        return verify_bundle(folder, digest), json.loads((folder / EXAMPLE_FILE).read_text())

    return storage.use_bundle(uri, cache / digest, load)
