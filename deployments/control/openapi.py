"""One OpenAPI description of the whole platform: the management paths, and each deployed model in its own words."""

import json
import math
from importlib.metadata import version
from typing import Any

import msgspec
import numpy as np
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from deployments.control import pipeline_schemas, schemas
from deployments.control.catalog import Catalog
from deployments.protocols.arrays import NUMPY
from deployments.protocols.oip.codec import OutputParameters, Parameters
from deployments.specs.model import Deployment
from deployments.specs.record import PipelineEndpoint
from training.bundle.manifest import Manifest, TensorSpec
from training.schema import ClassOutput, ImageInput, TextInput

VERSION = version("shoal")

Schema = dict[str, Any]

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "request_id"],
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "request_id": {"type": ["string", "null"]},
            },
        }
    },
}
_OIP_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
_BINARY = (
    "In its binary form JSON comes first, as many bytes as the header Inference-Header-Content-Length says, where an "
    "input has parameters.binary_data_size in the place of data; its values follow as that many raw bytes, row-major "
    "and little-endian. With parameters.binary_data_output true, or binary_data at an output, so comes the answer."
)


def build_openapi(api: FastAPI, catalogue: Catalog) -> Schema:
    """Describe the paths of the control application and of every deployed model."""
    document = get_openapi(title="Shoal", version=VERSION, routes=api.routes)
    components = document.setdefault("components", {})
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    components.setdefault("schemas", {}).update({"Error": _ERROR, "OipError": _OIP_ERROR})
    document["security"] = [{"key": []}]
    for path, item in document["paths"].items():
        for operation in item.values():
            _complete_operation(operation, path)
    _add_examples(document["paths"], catalogue)
    for deployment, manifest, example in catalogue.list_served():
        document["paths"] |= model_paths(deployment, manifest, example)
    for pipeline in catalogue.list_pipelines():
        document["paths"] |= pipeline_paths(pipeline.endpoint)
    return document


def model_paths(deployment: Deployment, manifest: Manifest, example: Schema) -> Schema:
    """Describe one deployed model's own paths."""
    tag = [f"model: {manifest.name}"]
    about = f"{manifest.summary} Version {deployment.endpoint.version}.".strip()
    predict = _operation(
        f"{manifest.name}: predict",
        about,
        tag,
        _predict_body(manifest, example),
        schemas.predict_response_schema(manifest),
        "Error",
    )
    if manifest.output_schema.kind == "text":
        said = f'With "stream": true, server-sent events: {json.dumps(schemas.event_schema(manifest))}'
        predict["responses"]["200"]["content"]["text/event-stream"] = {
            "schema": {"type": "string", "description": said}
        }
    infer = _operation(
        f"{manifest.name}: infer",
        f"{about} Open Inference Protocol. {_BINARY}",
        tag,
        {
            "application/json": {"schema": _infer_request(manifest), "example": _infer_example(manifest)},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary", "description": _BINARY}},
        },
        _infer_response(manifest),
        "OipError",
    )
    infer["responses"]["200"]["content"]["application/octet-stream"] = {
        "schema": {"type": "string", "format": "binary"}
    }
    own = {"/predict": {"post": predict}, "/infer": {"post": infer}} | _get_operations(manifest.name, about, tag)
    return _at_all_addresses(manifest.name, deployment.endpoint.version, own)


def pipeline_paths(endpoint: PipelineEndpoint) -> Schema:
    """Describe one deployed pipeline's own paths."""
    tag = [f"pipeline: {endpoint.name}"]
    about = f"{endpoint.pipeline.summary} A pipeline of {', '.join(endpoint.signatures)}; version {endpoint.version}.".strip()
    body, answer = pipeline_schemas.request_content(endpoint), pipeline_schemas.response_schema(endpoint)
    predict = {"post": _operation(f"{endpoint.name}: predict", about, tag, body, answer, "Error")}
    return _at_all_addresses(
        endpoint.name, endpoint.version, {"/predict": predict} | _get_operations(endpoint.name, about, tag)
    )


def _get_operations(name: str, about: str, tag: list[str]) -> Schema:
    """What a model or pipeline tells of itself, by the end of its path."""
    anything: Schema = {"type": "object"}
    return {
        "/example": {"get": _operation(f"{name}: an example request", about, tag, None, anything, "Error")},
        "/ready": {"get": _operation(f"{name}: ready", about, tag, None, anything, "OipError")},
        "": {"get": _operation(f"{name}: metadata", about, tag, None, anything, "OipError")},
    }


def _at_all_addresses(name: str, version: int, own: Schema) -> Schema:
    """Operations by the end of their path, at all the addresses that they have."""
    bases = f"/v2/models/{name}", f"/v2/models/{name}/versions/{version}"
    paths = {f"{base}{end}": item for base in bases for end, item in own.items()}
    return paths | {f"/api/v1/models/{name}/predict": own["/predict"]}


def _complete_operation(operation: Schema, path: str) -> None:
    """Add what FastAPI cannot know of a management path: who is let in, and our errors in the place of its own."""
    if path.startswith("/v2/health/"):
        operation["security"] = []
    operation["responses"].pop("422", None)
    operation["responses"] |= _error_responses("OipError" if path.startswith("/v2") else "Error")
    if path == "/v2/health/ready":
        operation["responses"]["503"] = {"description": "A model does not answer."} | _content({"type": "object"})


def _add_examples(paths: Schema, catalogue: Catalog) -> None:
    """Fill in at the management paths what works as it stands: a model that is served, and its own example."""
    ask = paths["/api/v1/models/{name}/predict"]["post"]
    body: Schema = {"schema": {"type": "object", "required": ["inputs"], "properties": {"inputs": {"type": "array"}}}}
    ask["requestBody"] = {"required": True, "content": {"application/json": body}}
    served = catalogue.list_served()
    if served:
        deployment, _, body["example"] = served[0]
        for operation in (ask, paths["/api/v1/models/{name}"]["get"]):
            operation["parameters"][0]["example"] = deployment.endpoint.name


def _content(schema: Schema) -> Schema:
    return {"content": {"application/json": {"schema": schema}}}


def _error_responses(error: str) -> Schema:
    refused = _content({"$ref": f"#/components/schemas/{error}"})
    return {
        "4XX": {"description": "Refused; the message says what, the rule and the remedy."} | refused,
        "503": {"description": "Too many requests at once; try again."} | refused,
        "504": {"description": "No answer in time."} | refused,
    }


def _operation(summary: str, about: str, tags: list[str], content: Schema | None, answer: Schema, error: str) -> Schema:
    operation: Schema = {
        "summary": summary,
        "description": about,
        "tags": tags,
        "responses": {"200": {"description": "The answer."} | _content(answer)} | _error_responses(error),
    }
    if content is not None:
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _predict_body(manifest: Manifest, example: Schema) -> Schema:
    content: Schema = {"application/json": {"schema": schemas.predict_request_schema(manifest), "example": example}}
    if isinstance(manifest.input_schema, ImageInput):
        for kind in ("image/png", "image/jpeg", "image/webp"):
            content[kind] = {"schema": {"type": "string", "format": "binary"}}
    return content


def _infer_request(manifest: Manifest) -> Schema:
    input_ = _input_tensor(manifest.inputs[0])
    # What may be said of an input is the size of its bytes, and here it has none.
    none = {"additionalProperties": False, "properties": {"binary_data_size": {"type": "null"}}}
    parameters = {"type": ["object", "null"]} | none
    input_ |= {"additionalProperties": False, "properties": input_["properties"] | {"parameters": parameters}}
    if isinstance(manifest.input_schema, TextInput) and not manifest.input_schema.has_predicate:
        input_ = {"anyOf": [input_, _text_tensor(manifest.inputs[0])]}
    return {
        "type": "object",
        "required": ["inputs"],
        "additionalProperties": False,
        "properties": {
            "id": {"type": ["string", "null"]},
            "parameters": _parameters(Parameters),
            "inputs": {"type": "array", "items": input_, "minItems": 1, "maxItems": 1},
            "outputs": {
                "type": ["array", "null"],
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "additionalProperties": False,
                    "properties": {
                        "name": {"enum": [spec.name for spec in manifest.outputs]},
                        "parameters": _parameters(OutputParameters),
                    },
                },
            },
        },
    }


def _parameters(kind: type[msgspec.Struct]) -> Schema:
    """The schema of parameters, as the codec reads them."""
    schema: Schema
    (schema,) = msgspec.json.schema_components([kind])[1].values()
    return schema | {"type": ["object", "null"]}


def _text_tensor(spec: TensorSpec) -> Schema:
    """An input of texts in the place of tokens."""
    text: Schema = {"type": "string"}
    size = {"type": "integer", "minimum": 1}
    return {
        "type": "object",
        "required": ["name", "shape", "datatype", "data"],
        "additionalProperties": False,
        "properties": {
            "name": {"const": spec.name},
            "datatype": {"const": "BYTES"},
            "shape": {"type": "array", "prefixItems": [size, {"const": 1}], "minItems": 1, "maxItems": 2},
            "data": {"anyOf": [{"type": "array", "items": text}, schemas.nested_array_schema(text, (None, 1))]},
        },
    }


def _infer_example(manifest: Manifest) -> Schema:
    (spec,) = manifest.inputs
    shape = [1, *(max(size, 1) for size in spec.shape[1:])]
    zero = False if spec.datatype == "BOOL" else 0
    tensor = {"name": spec.name, "shape": shape, "datatype": spec.datatype, "data": [zero] * math.prod(shape)}
    return {"inputs": [tensor]}


def _infer_response(manifest: Manifest) -> Schema:
    classes = (
        [_classification_tensor(spec) for spec in manifest.outputs]
        if isinstance(manifest.output_schema, ClassOutput)
        else []
    )
    return {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "model_name": {"const": manifest.name},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "outputs": {
                "type": "array",
                "items": {"anyOf": [_output_tensor(spec) for spec in manifest.outputs] + classes},
            },
        },
    }


def _output_tensor(spec: TensorSpec) -> Schema:
    """An output as the net gives it; alone, or as the JSON part of an answer in bytes."""
    tensor = _input_tensor(spec)
    properties = dict(tensor["properties"])
    if NUMPY[spec.datatype].kind == "f":
        said = "The values, flat in row-major order; null where one is not finite, for which JSON has no word."
        properties["data"] = {"type": "array", "items": {"type": ["number", "null"]}, "description": said}
    return tensor | {"properties": properties}


def _classification_tensor(spec: TensorSpec) -> Schema:
    """An output of which a request wants the best classes."""
    return {
        "type": "object",
        "required": ["name", "shape", "datatype", "data"],
        "properties": {
            "name": {"const": spec.name},
            "datatype": {"const": "BYTES"},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 2, "maxItems": 2},
            "data": {"type": "array", "items": {"type": "string", "description": "value:index:label"}},
        },
    }


def _input_tensor(spec: TensorSpec) -> Schema:
    stored = NUMPY[spec.datatype]
    value: Schema = {"type": {"b": "boolean", "f": "number"}.get(stored.kind, "integer")}
    if stored.kind in "iu":
        value |= {"minimum": int(np.iinfo(stored).min), "maximum": int(np.iinfo(stored).max)}
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
                "description": f"{list(spec.shape)}; the first is the number of rows; -1 is any number.",
            },
            "data": {
                "description": "The values, flat in row-major order, or nested as the shape says.",
                "anyOf": [
                    {"type": "array", "items": value},
                    schemas.nested_array_schema(value, tuple(None if size < 0 else size for size in spec.shape)),
                ],
            },
            "parameters": {"type": "object"},
        },
    }
