"""Model node: one call of a deployed model or pipeline, within the time that is left; its errors get the node's path.

Request walk: pipeline_plan.py -> [model_node.py] -> request_context.py
"""

import asyncio
import contextlib

import msgspec

from deployments.access.usage.call_event import node_event
from deployments.errors import CallError, DeadlineExceeded
from deployments.pipelines.request_context import NodeError, Raw, RequestContext, RowBatch
from deployments.protocols.predict.requests import OPTION_BOUNDS, REQUEST_TYPES
from deployments.specs.pipeline import ModelNode
from deployments.specs.signature import MODEL_OUTPUTS, Signature, has_class_output
from training.errors import UserError


class _PredictResponse(msgspec.Struct):
    predictions: list[Raw]


class ModelNodePlan:
    """One model, called once with all rows."""

    def __init__(self, path: str, node: ModelNode, signature: Signature) -> None:
        self.path, self.inputs, self.output = path, signature.inputs, signature.output
        self.example = signature.example
        self._model, self._timeout_s = node.model, node.timeout_s
        self._accepts_top_k = has_class_output(signature.output)
        self._options = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in node.options.items()}
        _check_options(path, node, signature)

    async def run(self, batch: RowBatch, context: RequestContext, top_k: int) -> list[Raw]:
        """See PlanNode.

        Raises:
            NodeError: with the model's status; 504 where it did not respond in time, 503 where no replica was there.
        """
        if not batch.rows:
            return []
        request = {"inputs": batch.rows, **self._options, **({"top_k": top_k} if self._accepts_top_k else {})}
        remaining_s = context.remaining_s()
        timeout_s = remaining_s if self._timeout_s is None else min(self._timeout_s, remaining_s)
        try:
            async with asyncio.timeout(timeout_s):
                body = await self._call(context, msgspec.json.encode(request), timeout_s)
        except TimeoutError:
            message = f"no response within its {max(timeout_s, 0):.3g} s; try again, or send less"
            raise NodeError(self.path, DeadlineExceeded.status, DeadlineExceeded.code, message) from None
        except CallError as error:
            message = batch.renumber(error.message)
            raise NodeError(self.path, error.status, error.code, message, error.headers) from None
        predictions = msgspec.json.decode(body, type=_PredictResponse).predictions
        if len(predictions) != len(batch.rows):
            message = f"{len(predictions)} predictions for {len(batch.rows)} rows"
            raise NodeError(self.path, 500, "internal", message)
        return predictions

    async def _call(self, context: RequestContext, body: bytes, timeout_s: float) -> bytes:
        span = context.trace_node(self.path, self._model) if context.trace_node else contextlib.nullcontext()
        with span, node_event(self.path):
            return await context.call_model(
                self._model, body, context.request_id, timeout_s, context.priority, context.add_node
            )


def _check_options(path: str, node: ModelNode, signature: Signature) -> None:
    """Refuse options that a request to this model does not have, or that are out of bounds."""
    if node.options and not isinstance(signature.output, MODEL_OUTPUTS):
        raise UserError(f"{path}: a pipeline has no options; set those of its own nodes")
    for name, value in node.options.items():
        fields = REQUEST_TYPES[signature.output.kind].__struct_fields__
        allowed = [field for field in fields if field in OPTION_BOUNDS and field not in ("top_k", "samples")]
        if name not in allowed:
            hint = "; it is set by the request" if name == "top_k" else ""
            raise UserError(f"{path}: no option {name!r}{hint}; options: {', '.join(allowed) or 'none'}")
        minimum, maximum = OPTION_BOUNDS[name]
        is_integer = name in ("max_tokens", "seed")
        if isinstance(value, bool) or not isinstance(value, int if is_integer else int | float):
            raise UserError(f"{path}: {name}={value!r}; give {'an integer' if is_integer else 'a number'}")
        if not minimum <= value <= maximum:
            raise UserError(f"{path}: {name}={value!r}; give a number from {minimum} to {maximum}")
