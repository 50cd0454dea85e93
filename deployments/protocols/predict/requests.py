"""`predict` requests: the type of a body by its task, the bounds of its options, and parsing.

Imports no torch: pipelines and the control application parse requests and run no net.
"""

from typing import Any

import msgspec

from deployments.errors import MalformedBody, UnsupportedMediaType
from deployments.protocols.arrays import describe_json_error
from deployments.protocols.predict.images import SERVED_MEDIA_TYPES

MAX_NEW_TOKENS = 1000


class ClassRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A request for labels."""

    inputs: list[Any]
    top_k: int = 5


class PlainRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A request without options."""

    inputs: list[Any]


class BoxRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A request for boxes."""

    inputs: list[Any]
    min_score: float = 0.3


class TextRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A request for text; at temperature 0 each token is the most likely one."""

    inputs: list[Any]
    max_tokens: int = 100
    temperature: float = 0.8
    seed: int | None = None
    stream: bool = False


class ImageRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A request to encode and reconstruct images, or to sample new ones."""

    inputs: list[Any] = []
    samples: int = 0
    seed: int | None = None


REQUEST_TYPES: dict[str, Any] = {
    "classes": ClassRequest,
    "number": PlainRequest,
    "spans": PlainRequest,
    "boxes": BoxRequest,
    "text": TextRequest,
    "image": ImageRequest,
}
"""The type of a request, by the kind of its model's output schema."""

OPTION_BOUNDS: dict[str, tuple[float, float]] = {
    "top_k": (1, 2**31),
    "min_score": (0.0, 1.0),
    "max_tokens": (1, MAX_NEW_TOKENS),
    "temperature": (0.0, 10.0),
    "samples": (0, 64),
    "seed": (0, 2**63 - 1),
}
"""Minimum and maximum of each option."""


def parse_media_type(content_type: str) -> str:
    """Return a Content-Type header's media type, lower case and without parameters."""
    return content_type.partition(";")[0].strip().lower()


def parse_json_request(body: bytes, media_type: str, request_type: Any, accepts_images: bool) -> Any:
    """Decode a JSON body as one of REQUEST_TYPES.

    Raises:
        UnsupportedMediaType: it is not JSON.
        MalformedBody: it does not have the fields of the type.
    """
    # Without a type too: a page of another site can send that, or text/plain, in its visitor's name.
    if media_type != "application/json":
        others = f" or {', '.join(SERVED_MEDIA_TYPES)}" if accepts_images else ""
        problem = f"content type {media_type!r} is not supported" if media_type else "the body has no content type"
        raise UnsupportedMediaType(f"{problem}; send the header Content-Type: application/json{others}")
    try:
        return msgspec.json.decode(body, type=request_type)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        reason = describe_json_error(error, body)
        raise MalformedBody(f'the body is not {{"inputs": [...]}}: {reason}') from None
