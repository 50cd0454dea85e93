"""One OpenAPI description of the whole platform: the management paths, and each deployed model in its own words."""

import math
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from deployments import schemas
from deployments.catalogue import Catalogue
from deployments.pipelines import schemas as pipeline_schemas
from deployments.pipelines.deployment import PipelineEndpoint
from deployments.spec import Deployment
from training.bundle import Datatype, Manifest, TensorSpec
from training.words import ImageWords

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
_INTEGER_RANGES: dict[Datatype, tuple[int, int]] = {"UINT8": (0, 255), "INT8": (-128, 127)}


def describe(api: FastAPI, catalogue: Catalogue) -> Schema:
    """Describe the paths of the control application and of every deployed model."""
    document = get_openapi(title="Shoal", version=VERSION, routes=api.routes)
    components = document.setdefault("components", {})
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    components.setdefault("schemas", {}).update({"Error": _ERROR, "OipError": _OIP_ERROR})
    document["security"] = [{"key": []}]
    for path, item in document["paths"].items():
        if path.startswith("/v2/health/"):
            for operation in item.values():
                operation["security"] = []
    for deployment, manifest, example in catalogue.served():
        document["paths"] |= model_paths(deployment, manifest, example)
    for pipeline in catalogue.pipelines():
        document["paths"] |= pipeline_paths(pipeline.endpoint)
    return document


def model_paths(deployment: Deployment, manifest: Manifest, example: Schema) -> Schema:
    """Describe one deployed model's own paths."""
    base, tag = f"/v2/models/{manifest.name}", [f"model: {manifest.name}"]
    about = f"{manifest.summary} Version {deployment.endpoint.version}.".strip()
    predict = _operation(
        f"{manifest.name}: predict",
        about,
        tag,
        _predict_body(manifest, example),
        schemas.answer(manifest),
        "Error",
    )
    infer = _operation(
        f"{manifest.name}: infer",
        f"{about} Open Inference Protocol.",
        tag,
        {"application/json": {"schema": _infer_request(manifest), "example": _infer_example(manifest)}},
        _infer_response(manifest),
        "OipError",
    )
    return {
        f"{base}/predict": {"post": predict},
        f"/api/v1/models/{manifest.name}/predict": {"post": predict},
        f"{base}/infer": {"post": infer},
        f"{base}/example": {
            "get": _operation(f"{manifest.name}: an example request", about, tag, None, {"type": "object"}, "Error")
        },
        f"{base}/ready": {
            "get": _operation(f"{manifest.name}: ready", about, tag, None, {"type": "object"}, "OipError")
        },
        base: {"get": _operation(f"{manifest.name}: metadata", about, tag, None, {"type": "object"}, "OipError")},
    }


def pipeline_paths(endpoint: PipelineEndpoint) -> Schema:
    """Describe one deployed pipeline's own paths."""
    base, tag = f"/v2/models/{endpoint.name}", [f"pipeline: {endpoint.name}"]
    about = (
        f"{endpoint.pipeline.summary} A pipeline of {', '.join(endpoint.steps)}; version {endpoint.version}.".strip()
    )
    body, answer = pipeline_schemas.body(endpoint), pipeline_schemas.answer(endpoint)
    predict = {"post": _operation(f"{endpoint.name}: predict", about, tag, body, answer, "Error")}
    anything: Schema = {"type": "object"}
    return {
        f"{base}/predict": predict,
        f"/api/v1/models/{endpoint.name}/predict": predict,
        f"{base}/example": {
            "get": _operation(f"{endpoint.name}: an example request", about, tag, None, anything, "Error")
        },
        f"{base}/ready": {"get": _operation(f"{endpoint.name}: ready", about, tag, None, anything, "OipError")},
        base: {"get": _operation(f"{endpoint.name}: metadata", about, tag, None, anything, "OipError")},
    }


def _operation(summary: str, about: str, tags: list[str], content: Schema | None, answer: Schema, error: str) -> Schema:
    refused = {"content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{error}"}}}}
    operation: Schema = {
        "summary": summary,
        "description": about,
        "tags": tags,
        "responses": {
            "200": {"description": "The answer.", "content": {"application/json": {"schema": answer}}},
            "4XX": {"description": "Refused; the message says what, the rule and the remedy."} | refused,
            "503": {"description": "Too many requests at once; try again."} | refused,
            "504": {"description": "No answer in time."} | refused,
        },
    }
    if content is not None:
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _predict_body(manifest: Manifest, example: Schema) -> Schema:
    content: Schema = {"application/json": {"schema": schemas.request(manifest), "example": example}}
    if isinstance(manifest.words, ImageWords):
        for kind in ("image/png", "image/jpeg", "image/webp"):
            content[kind] = {"schema": {"type": "string", "format": "binary"}}
    return content


def _infer_request(manifest: Manifest) -> Schema:
    inputs = [_tensor(spec) for spec in manifest.inputs]
    return {
        "type": "object",
        "required": ["inputs"],
        "additionalProperties": False,
        "properties": {
            "id": {"type": "string"},
            "parameters": {"type": "object"},
            "inputs": {"type": "array", "items": inputs[0], "minItems": 1, "maxItems": 1},
            "outputs": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {
                        "name": {"enum": [spec.name for spec in manifest.outputs]},
                        "parameters": {"type": "object"},
                    },
                },
            },
        },
    }


def _infer_example(manifest: Manifest) -> Schema:
    (spec,) = manifest.inputs
    shape = [1, *(max(size, 1) for size in spec.shape[1:])]
    tensor = {"name": spec.name, "shape": shape, "datatype": spec.datatype, "data": [0] * math.prod(shape)}
    return {"inputs": [tensor]}


def _infer_response(manifest: Manifest) -> Schema:
    return {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "model_name": {"const": manifest.name},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "outputs": {"type": "array", "items": {"anyOf": [_tensor(spec) for spec in manifest.outputs]}},
        },
    }


def _tensor(spec: TensorSpec) -> Schema:
    low, high = _INTEGER_RANGES.get(spec.datatype, (None, None))
    value: Schema = {"type": "number" if spec.datatype.startswith("FP") else "integer"}
    if low is not None:
        value |= {"minimum": low, "maximum": high}
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
                    schemas.nested(value, tuple(None if size < 0 else size for size in spec.shape)),
                ],
            },
            "parameters": {"type": "object"},
        },
    }
