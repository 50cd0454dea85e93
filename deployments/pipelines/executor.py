"""Pipeline executor: runs requests through a pipeline's plan; what a pipeline's replica serves, without Ray.

Request walk: routes.py -> [executor.py: decode] -> pipeline_plan.py -> [executor.py: encode]
"""

import asyncio
import base64
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from deployments.access.limits.accounts import CURRENT_CHARGE
from deployments.access.usage.request_usage import CURRENT_USAGE
from deployments.errors import EmptyRequest, InvalidType, NotStreamable, PayloadTooLarge, TensorsNotSupported
from deployments.pipelines.crops import CropBudget
from deployments.pipelines.pipeline_plan import build_plan
from deployments.pipelines.request_context import ALL_LABELS, ModelCall, Raw, RequestContext, RowBatch, TraceNode
from deployments.protocols.predict.images import SERVED_MEDIA_TYPES
from deployments.protocols.predict.requests import parse_json_request
from deployments.server.scheduling import Scheduling
from deployments.server.sse import Event
from deployments.specs.deployment import PipelineEndpoint
from deployments.specs.signature import has_class_output
from training.schema import ImageInput

# A node's time limit ends before the request's, so that the error can name the node that is late.
NODE_TIME_SHARE = 0.98


class _RowsRequest(msgspec.Struct, forbid_unknown_fields=True):
    inputs: list[Raw]


class _LabelsRequest(msgspec.Struct, forbid_unknown_fields=True):
    inputs: list[Raw]
    top_k: int = 5


class PipelineExecutor:
    """One pipeline, and the function that calls its models."""

    def __init__(
        self, endpoint: PipelineEndpoint, call_model: ModelCall, *, trace_node: TraceNode | None = None
    ) -> None:
        self.endpoint, self._call_model, self._trace_node = endpoint, call_model, trace_node
        self._plan = build_plan(endpoint)
        self.example: dict[str, Any] = {"inputs": [self._plan.example]}
        self.metadata = encode_metadata(endpoint)
        self._request_type: Any = _LabelsRequest if has_class_output(self._plan.output) else _RowsRequest
        self._accepts_images = isinstance(self._plan.inputs[0], ImageInput)

    async def infer(
        self, body: bytes, header_length: int | None = None, scheduling: Scheduling | None = None
    ) -> tuple[bytes, int | None]:
        """Refuse an Open Inference Protocol request: nodes exchange rows as JSON, not tensors."""
        name = self.endpoint.name
        raise TensorsNotSupported(f"{name} is a pipeline, which takes no tensors; POST /v2/models/{name}/predict")

    async def stream(
        self, body: bytes, content_type: str, scheduling: Scheduling | None = None
    ) -> AsyncGenerator[Event]:
        """Refuse to stream: a pipeline's response is complete only when its last node's is."""
        raise NotStreamable(f"{self.endpoint.name} is a pipeline, which cannot stream; send the request without stream")
        yield  # makes it a generator, as the interface requires

    async def predict(
        self, body: bytes, content_type: str, request_id: str | None = None, scheduling: Scheduling | None = None
    ) -> bytes:
        """Run a `predict` request, until its deadline at most and never longer than the pipeline's own limit."""
        response, _ = await self.predict_by_nodes(body, content_type, request_id, scheduling)
        return response

    async def predict_by_nodes(
        self, body: bytes, content_type: str, request_id: str | None = None, scheduling: Scheduling | None = None
    ) -> tuple[bytes, tuple[str, ...]]:
        """Do as `predict`; returns also NAME:VERSION of what has answered, sorted."""
        scheduling = scheduling or Scheduling()
        limit_s = min(self.endpoint.limits.request_timeout_s, scheduling.remaining_s())
        # Set before the body is parsed: parsing counts too.
        deadline_s = asyncio.get_running_loop().time() + NODE_TIME_SHARE * limit_s
        request = self._parse_request(body, content_type)
        if (charge := CURRENT_CHARGE.get()) is not None:
            await charge.take_content(len(request.inputs), 0)
        if (usage := CURRENT_USAGE.get()) is not None:
            usage.rows = len(request.inputs)
        context = RequestContext(
            self._call_model,
            deadline_s,
            CropBudget(self.endpoint.limits),
            request_id,
            scheduling.priority,
            self._trace_node,
        )
        rows = RowBatch(request.inputs, list(range(len(request.inputs))))
        predictions = await self._plan.run(rows, context, getattr(request, "top_k", ALL_LABELS))
        response = {"model": self.endpoint.name, "version": str(self.endpoint.version), "predictions": predictions}
        return msgspec.json.encode(response), tuple(sorted(context.nodes))

    def _parse_request(self, body: bytes, content_type: str) -> Any:
        media_type = content_type.partition(";")[0].strip().lower()
        if media_type in SERVED_MEDIA_TYPES and self._accepts_images:
            if not body:
                raise EmptyRequest("the body is empty; send an image file")
            return self._request_type([Raw(msgspec.json.encode(base64.b64encode(body).decode()))])
        request = parse_json_request(body, media_type, self._request_type, self._accepts_images)
        if not 1 <= getattr(request, "top_k", 1) <= ALL_LABELS:
            raise InvalidType(f"top_k={request.top_k}; send a number from 1 to {ALL_LABELS}")
        max_rows = self.endpoint.limits.max_rows
        if not request.inputs:
            raise EmptyRequest("inputs is empty; send at least one row")
        if len(request.inputs) > max_rows:
            raise PayloadTooLarge(f"{len(request.inputs)} rows; the limit is {max_rows}; send several requests")
        return request


def encode_metadata(endpoint: PipelineEndpoint) -> bytes:
    """Encode a pipeline's metadata in the Open Inference Protocol's form; it has no tensors."""
    return msgspec.json.encode(
        {
            "name": endpoint.name,
            "versions": [str(endpoint.version)],
            "platform": "shoal_pipeline",
            "inputs": [],
            "outputs": [],
        }
    )
