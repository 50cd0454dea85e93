"""JSON Schemas of `infer` (Open Inference Protocol): each model's request, response and example, from its tensors."""

import math
from typing import Any

import msgspec
import numpy as np

from deployments.control.predict_schemas import JsonSchema, build_array_schema
from deployments.protocols.oip.codec import OutputParameters, Parameters
from training.bundle.datatypes import BYTES, numpy_dtype
from training.bundle.manifest import Manifest, TensorSpec
from training.schema import ClassOutput, TextInput


def build_infer_request_schema(manifest: Manifest) -> JsonSchema:
    """Build the schema of a request's body in JSON."""
    tensor = _build_tensor_schema(manifest.inputs[0])
    # The only parameter of an input is its size in bytes, which a tensor in JSON does not have.
    no_parameters = {"additionalProperties": False, "properties": {"binary_data_size": {"type": "null"}}}
    tensor["properties"]["parameters"] = {"type": ["object", "null"]} | no_parameters
    tensor["additionalProperties"] = False
    if isinstance(manifest.input_schema, TextInput) and not manifest.input_schema.has_predicate:
        tensor = {"anyOf": [tensor, _build_text_tensor_schema(manifest.inputs[0])]}
    return {
        "type": "object",
        "required": ["inputs"],
        "additionalProperties": False,
        "properties": {
            "id": {"type": ["string", "null"]},
            "parameters": _build_parameters_schema(Parameters),
            "inputs": {"type": "array", "items": tensor, "minItems": 1, "maxItems": 1},
            "outputs": {
                "type": ["array", "null"],
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "additionalProperties": False,
                    "properties": {
                        "name": {"enum": [spec.name for spec in manifest.outputs]},
                        "parameters": _build_parameters_schema(OutputParameters),
                    },
                },
            },
        },
    }


def build_infer_response_schema(manifest: Manifest) -> JsonSchema:
    """Build the schema of a response's body in JSON."""
    outputs = [_build_output_schema(spec) for spec in manifest.outputs]
    if isinstance(manifest.output_schema, ClassOutput):
        outputs += [_build_classification_schema(spec) for spec in manifest.outputs]
    return {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "model_name": {"const": manifest.name},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "outputs": {"type": "array", "items": {"anyOf": outputs}},
        },
    }


def build_infer_example(manifest: Manifest) -> dict[str, Any]:
    """Build a valid request: one row of zeros."""
    (spec,) = manifest.inputs
    shape = [1, *(max(size, 1) for size in spec.shape[1:])]
    zero = False if spec.datatype == "BOOL" else 0
    tensor = {"name": spec.name, "shape": shape, "datatype": spec.datatype, "data": [zero] * math.prod(shape)}
    return {"inputs": [tensor]}


def _build_tensor_schema(spec: TensorSpec) -> JsonSchema:
    dtype = numpy_dtype(spec.datatype)
    value: JsonSchema = {"type": {"b": "boolean", "f": "number"}.get(dtype.kind, "integer")}
    if dtype.kind in "iu":
        value |= {"minimum": int(np.iinfo(dtype).min), "maximum": int(np.iinfo(dtype).max)}
    return {
        "type": "object",
        "required": ["name", "shape", "datatype", "data"],
        "properties": {
            "name": {"const": spec.name},
            "datatype": {"const": spec.datatype},
            "shape": {
                "type": "array",
                "items": {"type": "integer", "minimum": 1},
                "minItems": len(spec.shape),
                "maxItems": len(spec.shape),
                "description": f"{list(spec.shape)}: the first is the number of rows; -1 is any size.",
            },
            "data": {
                "description": "The values, flat in row-major order, or nested as the shape says.",
                "anyOf": [
                    {"type": "array", "items": value},
                    build_array_schema(value, tuple(None if size < 0 else size for size in spec.shape)),
                ],
            },
            "parameters": {"type": "object"},
        },
    }


def _build_text_tensor_schema(spec: TensorSpec) -> JsonSchema:
    """An input of texts in the place of tokens."""
    text: JsonSchema = {"type": "string"}
    size = {"type": "integer", "minimum": 1}
    return {
        "type": "object",
        "required": ["name", "shape", "datatype", "data"],
        "additionalProperties": False,
        "properties": {
            "name": {"const": spec.name},
            "datatype": {"const": BYTES},
            "shape": {"type": "array", "prefixItems": [size, {"const": 1}], "minItems": 1, "maxItems": 2},
            "data": {"anyOf": [{"type": "array", "items": text}, build_array_schema(text, (None, 1))]},
        },
    }


def _build_output_schema(spec: TensorSpec) -> JsonSchema:
    """An output tensor; alone, or as the JSON part of a binary response."""
    tensor = _build_tensor_schema(spec)
    if numpy_dtype(spec.datatype).kind == "f":
        tensor["properties"]["data"] = {
            "type": "array",
            "items": {"type": ["number", "null"]},
            "description": "The values, flat in row-major order; null for NaN and infinity, which JSON does not have.",
        }
    return tensor


def _build_classification_schema(spec: TensorSpec) -> JsonSchema:
    """An output that was requested as its best classes."""
    return {
        "type": "object",
        "required": ["name", "shape", "datatype", "data"],
        "properties": {
            "name": {"const": spec.name},
            "datatype": {"const": BYTES},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 2, "maxItems": 2},
            "data": {"type": "array", "items": {"type": "string", "description": "value:index:label"}},
        },
    }


def _build_parameters_schema(parameters: type[msgspec.Struct]) -> JsonSchema:
    """The schema of parameters as the codec decodes them."""
    schema: JsonSchema
    (schema,) = msgspec.json.schema_components([parameters])[1].values()
    return schema | {"type": ["object", "null"]}
