"""Runner: a pipeline that answers requests; what its replica is, without Ray around it.

Request walk: routes.py -> [runner.py: bytes -> rows] -> plan.py -> [runner.py: predictions -> bytes] -> socket
"""

import asyncio
import base64
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from deployments.errors import (
    EmptyRequest,
    InvalidType,
    NotStreamed,
    PayloadTooLarge,
    TensorsNotSupported,
    UnknownVersion,
)
from deployments.pipelines.call import ALL_LABELS, ModelCall, Raw, RequestContext, RowBatch
from deployments.pipelines.plan import build_plan
from deployments.protocols.predict.codec import IMAGE_TYPES, parse_json_request
from deployments.server.sse import Event
from deployments.specs.record import PipelineEndpoint
from deployments.specs.signature import has_labels
from training.schema import ImageInput

# A step is given up a little before the whole request is, so that the one that is late can be named.
HEADROOM = 0.98


class _Plain(msgspec.Struct, forbid_unknown_fields=True):
    inputs: list[Raw]


class _Labelled(msgspec.Struct, forbid_unknown_fields=True):
    inputs: list[Raw]
    top_k: int = 5


class PipelineExecutor:
    """One pipeline and how its models are asked."""

    def __init__(self, endpoint: PipelineEndpoint, ask: ModelCall) -> None:
        self.endpoint, self._ask = endpoint, ask
        self._plan = build_plan(endpoint)
        self.example: dict[str, Any] = {"inputs": [self._plan.example]}
        self.metadata = encode_metadata(endpoint)
        self._form: Any = _Labelled if has_labels(self._plan.output) else _Plain
        self._pictures = isinstance(self._plan.inputs[0], ImageInput)

    def check_version(self, asked: str) -> None:
        """Raise UnknownVersion unless this is the version that is asked for, or none is."""
        if asked not in ("", str(self.endpoint.version)):
            raise UnknownVersion(f"version {asked!r} is not deployed; version {self.endpoint.version} is")

    async def infer(self, raw: bytes, header_length: int | None = None) -> tuple[bytes, int | None]:
        """Refuse an Open Inference Protocol request: steps exchange words, not tensors."""
        name = self.endpoint.name
        raise TensorsNotSupported(f"{name} is a pipeline, asked in words; POST /v2/models/{name}/predict")

    async def stream(self, raw: bytes, content_type: str) -> AsyncGenerator[Event]:
        """Refuse to stream: a pipeline's answer is whole or not at all."""
        raise NotStreamed(f"{self.endpoint.name} is a pipeline, whose answer does not grow; ask it without stream")
        yield  # a generator, as a model's

    async def predict(
        self, raw: bytes, content_type: str, request_id: str | None = None, within_s: float | None = None
    ) -> bytes:
        """Answer a request in words, within so many seconds, and never more than the pipeline's own limit."""
        limit_s = self.endpoint.limits.request_timeout_s
        # Read before anything else: what was spent on reading the request is spent.
        deadline_s = asyncio.get_running_loop().time() + HEADROOM * min(
            limit_s, limit_s if within_s is None else within_s
        )
        request = self._read(raw, content_type)
        rows = request.inputs
        call = RequestContext(self._ask, deadline_s, request_id)
        answered = await self._plan.run(
            RowBatch(rows, list(range(len(rows)))), call, getattr(request, "top_k", ALL_LABELS)
        )
        said = {"model": self.endpoint.name, "version": str(self.endpoint.version), "predictions": answered}
        return msgspec.json.encode(said)

    def _read(self, raw: bytes, content_type: str) -> Any:
        kind = content_type.partition(";")[0].strip().lower()
        if kind in IMAGE_TYPES and self._pictures:
            if not raw:
                raise EmptyRequest("the body is empty; send a picture's bytes")
            return self._form([Raw(msgspec.json.encode(base64.b64encode(raw).decode()))])
        request = parse_json_request(raw, kind, self._form, self._pictures)
        if not 1 <= getattr(request, "top_k", 1) <= ALL_LABELS:
            raise InvalidType(f"top_k is {request.top_k}; make it 1 to {ALL_LABELS}")
        most = self.endpoint.limits.max_rows
        if not request.inputs:
            raise EmptyRequest("inputs is empty; send one row at least")
        if len(request.inputs) > most:
            raise PayloadTooLarge(f"{len(request.inputs)} rows; the limit is {most}; send several requests")
        return request


def encode_metadata(endpoint: PipelineEndpoint) -> bytes:
    """The pipeline's metadata, as the Open Inference Protocol has it: it takes and gives no tensors."""
    return msgspec.json.encode(
        {
            "name": endpoint.name,
            "versions": [str(endpoint.version)],
            "platform": "shoal_pipeline",
            "inputs": [],
            "outputs": [],
        }
    )
