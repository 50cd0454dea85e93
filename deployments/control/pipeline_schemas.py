"""JSON Schemas of a pipeline's `predict`, composed of those of its nodes."""

from typing import Any

from deployments.control.predict_schemas import (
    JsonSchema,
    build_item_schema,
    build_object_schema,
    build_prediction_schema,
    build_row_schema,
)
from deployments.pipelines.request_context import ALL_LABELS
from deployments.specs.signature import BranchOutput, ItemOutputs, NamedOutputs, Signature, has_class_output


def build_pipeline_request_schema(signature: Signature) -> JsonSchema:
    """Build the schema of a request's body."""
    rows = [build_row_schema(schema) for schema in signature.inputs]
    properties: JsonSchema = {
        "inputs": {"type": "array", "minItems": 1, "items": rows[0] if len(rows) == 1 else {"allOf": rows}}
    }
    if has_class_output(signature.output):
        properties["top_k"] = {"type": "integer", "minimum": 1, "maximum": ALL_LABELS, "default": 5}
    return {"type": "object", "required": ["inputs"], "additionalProperties": False, "properties": properties}


def build_pipeline_response_schema(name: str, signature: Signature) -> JsonSchema:
    """Build the schema of a response's body."""
    return build_object_schema(
        model={"const": name},
        version={"type": "string"},
        predictions={"type": "array", "items": build_output_schema(signature.output)},
    )


def build_output_schema(output: Any) -> JsonSchema:
    """Build the schema of one of `predictions`."""
    if isinstance(output, NamedOutputs):
        return build_object_schema(**{name: build_output_schema(each) for name, each in output.outputs.items()})
    if isinstance(output, BranchOutput):
        return {"anyOf": [_build_case_schema(name, each) for name, each in output.outputs.items()]}
    if isinstance(output, ItemOutputs):
        own = build_object_schema(output=build_output_schema(output.output))
        items = {"type": "array", "items": {"allOf": [build_item_schema(output.items), own]}}
        return build_object_schema(**{output.items.kind: items})
    return build_prediction_schema(output)


def _build_case_schema(name: str, output: Any) -> JsonSchema:
    """An output with the case's name; of a branch within the case, names joined by `/`."""
    branch = {"type": "string", "pattern": f"^{name}(/|$)"} if isinstance(output, BranchOutput) else {"const": name}
    return {"allOf": [_build_schema_without_branch(output), build_object_schema(branch=branch)]}


def _build_schema_without_branch(output: Any) -> JsonSchema:
    if isinstance(output, BranchOutput):
        return {"anyOf": [_build_schema_without_branch(each) for each in output.outputs.values()]}
    return build_output_schema(output)
