"""A step: one call of a deployed model or pipeline, in the time that is left, its failure told with its name."""

import asyncio
from typing import Any

import msgspec

from deployments.errors import ClientError
from deployments.pipelines.call import NodeError, Raw, RequestContext, RowBatch
from deployments.protocols.predict.outputs import BOUNDS, REQUESTS
from deployments.specs.pipeline import ModelNode
from deployments.specs.signature import MODEL_OUTPUTS, Signature, has_labels
from training.errors import UserError


class _Answer(msgspec.Struct):
    predictions: list[Raw]


class _Said(msgspec.Struct):
    code: str
    message: str


class _Error(msgspec.Struct):
    error: _Said


class ModelNodePlan:
    """One model, asked for all rows at once."""

    def __init__(self, path: str, step: ModelNode, signature: Signature) -> None:
        self.path, self.inputs, self.output = path, signature.inputs, signature.output
        self.example = signature.example
        self._model, self._timeout_s = step.model, step.timeout_s
        self._labelled = has_labels(signature.output)
        self._options = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in step.options.items()}
        _check(path, step, signature)

    async def run(self, batch: RowBatch, call: RequestContext, top_k: int) -> list[Raw]:
        """See node.Plan.

        Raises:
            StepFailed: with the status that the model answered, 504 where it did not in time, 503 where none was there.
        """
        if not batch.rows:
            return []
        request = {"inputs": batch.rows, **self._options, **({"top_k": top_k} if self._labelled else {})}
        within_s = call.remaining_s() if self._timeout_s is None else min(self._timeout_s, call.remaining_s())
        try:
            async with asyncio.timeout(within_s):
                status, body = await call.call_model(
                    self._model, msgspec.json.encode(request), call.request_id, within_s
                )
        except TimeoutError:
            said = f"no answer within the {max(within_s, 0):.3g} s that it had; try again, or send less"
            raise NodeError(self.path, 504, "timeout", said) from None
        except ClientError as error:
            raise NodeError(self.path, error.status, error.code, error.message) from None
        if status != 200:
            raise self._failed(status, body, batch)
        predictions = msgspec.json.decode(body, type=_Answer).predictions
        if len(predictions) != len(batch.rows):
            said = f"{len(predictions)} predictions for {len(batch.rows)} rows"
            raise NodeError(self.path, 500, "internal", said)
        return predictions

    def _failed(self, status: int, body: bytes, batch: RowBatch) -> NodeError:
        error = msgspec.json.decode(body, type=_Error).error
        return NodeError(self.path, status, error.code, batch.renumber(error.message))


def _check(path: str, step: ModelNode, signature: Signature) -> None:
    """Refuse options that a request to this model does not have, or that are out of bounds."""
    if step.options and not isinstance(signature.output, MODEL_OUTPUTS):
        raise UserError(f"{path}: a pipeline has no options; set those of its own steps")
    for name, value in step.options.items():
        form: Any = REQUESTS[signature.output.kind]
        allowed = [field for field in form.__struct_fields__ if field in BOUNDS and field not in ("top_k", "samples")]
        if name not in allowed:
            hint = "; the request says it" if name == "top_k" else ""
            raise UserError(f"{path}: no option {name!r}{hint}; possible: {', '.join(allowed) or 'none'}")
        least, most = BOUNDS[name]
        integer = name in ("max_tokens", "seed")
        if isinstance(value, bool) or not isinstance(value, int if integer else int | float):
            raise UserError(f"{path}: {name} is {value!r}; make it {'an integer' if integer else 'a number'}")
        if not least <= value <= most:
            raise UserError(f"{path}: {name} is {value}; make it {least} to {most}")
