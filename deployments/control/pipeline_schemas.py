"""What each pipeline takes and gives as JSON Schema, put together from its steps'; for the one OpenAPI document."""

from typing import Any

from deployments.control import schemas
from deployments.pipelines.call import ALL_LABELS
from deployments.pipelines.plan import pipeline_signature
from deployments.protocols.predict.codec import IMAGE_TYPES
from deployments.specs.record import PipelineEndpoint
from deployments.specs.signature import BranchOutput, ItemOutputs, NamedOutputs, Signature, has_labels
from training.schema import BoxOutput, ImageInput

Schema = dict[str, Any]


def request_content(endpoint: PipelineEndpoint) -> Schema:
    """The bodies of `predict`, by content type."""
    signature = pipeline_signature(endpoint)
    content: Schema = {
        "application/json": {"schema": request_schema(signature), "example": {"inputs": [signature.example]}}
    }
    if isinstance(signature.inputs[0], ImageInput):
        for kind in sorted(IMAGE_TYPES):
            content[kind] = {"schema": {"type": "string", "format": "binary"}}
    return content


def request_schema(signature: Signature) -> Schema:
    """The body of `predict` as JSON."""
    rows = [schemas.row_schema(words) for words in signature.inputs]
    properties: Schema = {
        "inputs": {"type": "array", "minItems": 1, "items": rows[0] if len(rows) == 1 else {"allOf": rows}}
    }
    if has_labels(signature.output):
        properties["top_k"] = {"type": "integer", "minimum": 1, "maximum": ALL_LABELS, "default": 5}
    return {"type": "object", "required": ["inputs"], "additionalProperties": False, "properties": properties}


def response_schema(endpoint: PipelineEndpoint) -> Schema:
    """What `predict` gives."""
    return _object(
        model={"const": endpoint.name},
        version={"type": "string"},
        predictions={"type": "array", "items": prediction_schema(pipeline_signature(endpoint).output)},
    )


def prediction_schema(gives: Any) -> Schema:
    """One of `predictions`, whatever it is made of."""
    if isinstance(gives, NamedOutputs):
        return _object(**{name: prediction_schema(each) for name, each in gives.outputs.items()})
    if isinstance(gives, BranchOutput):
        return {"anyOf": [_branch_schema(name, each) for name, each in gives.outputs.items()]}
    if isinstance(gives, ItemOutputs):
        key = "boxes" if isinstance(gives.of, BoxOutput) else "spans"
        item = schemas.prediction_schema(gives.of)["properties"][key]["items"]
        return _object(
            **{key: {"type": "array", "items": {"allOf": [item, _object(answer=prediction_schema(gives.output))]}}}
        )
    return schemas.prediction_schema(gives)


def _branch_schema(name: str, gives: Any) -> Schema:
    """An answer with the way its row went: a branch's name, or where it branched again, a path that begins with it."""
    way = {"type": "string", "pattern": f"^{name}(/|$)"} if isinstance(gives, BranchOutput) else {"const": name}
    return {"allOf": [_schema_without_branch(gives), _object(branch=way)]}


def _schema_without_branch(gives: Any) -> Schema:
    if isinstance(gives, BranchOutput):
        return {"anyOf": [_schema_without_branch(each) for each in gives.outputs.values()]}
    return prediction_schema(gives)


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}
