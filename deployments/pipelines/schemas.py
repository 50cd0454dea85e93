"""What each pipeline takes and gives as JSON Schema, put together from its steps'; for the one OpenAPI document."""

from typing import Any

from deployments import schemas
from deployments.codec.predict import IMAGE_TYPES
from deployments.pipelines.call import ALL_LABELS
from deployments.pipelines.deployment import PipelineEndpoint
from deployments.pipelines.signature import Items, OneOf, Several, Signature, has_labels
from training.words import Boxes, ImageWords

Schema = dict[str, Any]


def body(endpoint: PipelineEndpoint) -> Schema:
    """The bodies of `predict`, by content type."""
    signature = endpoint.signature()
    content: Schema = {"application/json": {"schema": request(signature), "example": {"inputs": [signature.example]}}}
    if isinstance(signature.takes[0], ImageWords):
        for kind in sorted(IMAGE_TYPES):
            content[kind] = {"schema": {"type": "string", "format": "binary"}}
    return content


def request(signature: Signature) -> Schema:
    """The body of `predict` as JSON."""
    rows = [schemas.row(words) for words in signature.takes]
    properties: Schema = {
        "inputs": {"type": "array", "minItems": 1, "items": rows[0] if len(rows) == 1 else {"allOf": rows}}
    }
    if has_labels(signature.gives):
        properties["top_k"] = {"type": "integer", "minimum": 1, "maximum": ALL_LABELS, "default": 5}
    return {"type": "object", "required": ["inputs"], "additionalProperties": False, "properties": properties}


def answer(endpoint: PipelineEndpoint) -> Schema:
    """What `predict` gives."""
    return _object(
        model={"const": endpoint.name},
        version={"type": "string"},
        predictions={"type": "array", "items": prediction(endpoint.signature().gives)},
    )


def prediction(gives: Any) -> Schema:
    """One of `predictions`, whatever it is made of."""
    if isinstance(gives, Several):
        return _object(**{name: prediction(each) for name, each in gives.answers.items()})
    if isinstance(gives, OneOf):
        return {"anyOf": [_of_branch(name, each) for name, each in gives.answers.items()]}
    if isinstance(gives, Items):
        key = "boxes" if isinstance(gives.of, Boxes) else "spans"
        item = schemas.prediction(gives.of)["properties"][key]["items"]
        return _object(**{key: {"type": "array", "items": {"allOf": [item, _object(answer=prediction(gives.answer))]}}})
    return schemas.prediction(gives)


def _of_branch(name: str, gives: Any) -> Schema:
    """An answer with the way its row went: a branch's name, or where it branched again, a path that begins with it."""
    way = {"type": "string", "pattern": f"^{name}(/|$)"} if isinstance(gives, OneOf) else {"const": name}
    return {"allOf": [_without_way(gives), _object(branch=way)]}


def _without_way(gives: Any) -> Schema:
    if isinstance(gives, OneOf):
        return {"anyOf": [_without_way(each) for each in gives.answers.values()]}
    return prediction(gives)


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}
