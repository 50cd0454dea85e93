"""Hostile requests: valid ones for every kind of model, with their structure, bytes or declared sizes broken."""

import base64
import copy
import io
import json
import struct
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from PIL import Image

INFER, PREDICT, OCTET_STREAM = "infer", "predict", "application/octet-stream"
# As a request's timeout in microseconds, none of these is so short that a 504 would be right.
LARGE = (2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**30, -(2**63), -(2**63) - 1)
NUMBERS = (0, -1, 1, 7, 255, 256, 65536, *LARGE, 0.5, -0.0, 1e-320, 3.5e38, -3.4e38, 1e308, -1e308)
TEXTS = (
    "",
    " ",
    "\0",
    "a" * 5000,
    "好" * 9,
    "🐟\u200d🐟",
    "\u202e",
    "e\u0301" * 40,
    "%s{}",
    "data:,",
    "AAAA",
    "data:x;base64,iVBORw0KGgo=",
)
NESTED: list[Any] = [[], [[]], [[[]]], [[1], [2, 3]], [None], [True], {}, {"": {}}, [[[[[1]]]]], [1] * 300, ["a"] * 70]
ATOMS: tuple[Any, ...] = (None, True, False, *NUMBERS, *TEXTS, "BYTES", "FP64", "BF16", "UINT8", "INT64", *NESTED)
SEPARATORS = (
    b"",
    b"\0",
    b"{",
    b"]",
    b'"',
    b"\xff",
    b"\xed\xa0\x80",
    b"\\ud800",
    b"NaN",
    b"Infinity",
    b"1e999",
    b"-",
    b"1" * 400,
)
LONG_BODIES = (b"[" * 3000, b'{"inputs":' * 600, b'{"inputs":[' * 400, b'{"a":' * 2000, b"[" * 3000 + b"]" * 3000)
HEADER_LENGTHS = ("0", "-1", "1", "99999999", "9" * 16, "9" * 400, "1e3", "0x10", " 7", "٣", "+5", "")
CONTENT_TYPES = (
    "application/json",
    "APPLICATION/JSON; charset=utf-16",
    "",
    "image/png",
    "image/webp",
    "text/html",
    OCTET_STREAM,
    "a" * 300,
)


@dataclass(frozen=True)
class HostileRequest:
    """One request to one model."""

    model: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


def encode_image(format_: str, mode: str = "L", size: tuple[int, int] = (9, 7)) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert(mode).save(file, format_)
    return file.getvalue()


IMAGES = [encode_image(format_, mode) for format_ in ("PNG", "JPEG", "WEBP") for mode in ("L", "RGB")] + [
    encode_image("PNG", "1"),
    encode_image("PNG", "RGBA"),
    encode_image("GIF"),
    encode_image("BMP"),
    encode_image("PNG", size=(600, 600)),
]


@st.composite
def mutate_json(draw: st.DrawFn, value: Any, max_mutations: int = 3) -> Any:
    """A JSON value with some of its parts removed, replaced, repeated or renamed."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(0, max_mutations))):
        slots = _list_slots(value)
        parent, key = slots[draw(st.integers(0, len(slots) - 1))]
        mutation = draw(st.integers(0, 5))
        if mutation == 0:
            del parent[key]
        elif mutation == 1 and isinstance(parent, dict):
            parent[draw(st.sampled_from(("", "inputs", "x", "data", "stream", "parameters")))] = parent.pop(key)
        elif mutation == 1:
            parent.insert(key, copy.deepcopy(parent[key]))
        elif mutation == 2:
            parent[key] = [parent[key]] * (draw(st.sampled_from((1, 2, 65))) if len(slots) < 200 else 2)
        elif mutation == 3:
            parent[key] = draw(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()))
        else:
            parent[key] = copy.deepcopy(draw(st.sampled_from(ATOMS)))
        if not _list_slots(value):
            break
    return value


def _list_slots(value: Any) -> list[tuple[Any, Any]]:
    """Every part of a JSON value, as its parent and its key there."""
    slots: list[tuple[Any, Any]] = []
    pending = [value]
    while pending:
        parent = pending.pop()
        keys = list(parent) if isinstance(parent, dict) else range(len(parent)) if isinstance(parent, list) else ()
        slots += [(parent, key) for key in keys]
        pending += [parent[key] for key in keys]
    return slots


@st.composite
def mutate_bytes(draw: st.DrawFn, body: bytes) -> bytes:
    """Bytes with some of them removed, replaced, moved or inserted."""
    mutation = draw(st.integers(0, 15))
    position = draw(st.integers(0, len(body)))
    if mutation == 0:
        return body[:position]
    if mutation == 1:
        return body[:position] + draw(st.sampled_from(SEPARATORS)) + body[position:]
    if mutation == 2:
        return body[:position] + draw(st.binary(min_size=1, max_size=4)) + body[position + 1 :]
    if mutation == 3:
        return body[position:] + body[:position]
    return body


@st.composite
def predict_requests(draw: st.DrawFn, model: str, valid: list[dict[str, Any]]) -> HostileRequest:
    """A `predict` request in JSON."""
    body = json.dumps(draw(mutate_json(draw(st.sampled_from(valid)))), ensure_ascii=draw(st.booleans())).encode(
        "utf-8", "surrogatepass"
    )
    accept = draw(st.sampled_from(("*/*", "*/*", "*/*", "text/event-stream")))
    content_type = draw(st.sampled_from(("application/json",) * 8 + CONTENT_TYPES))
    return HostileRequest(
        model, PREDICT, (("content-type", content_type), ("accept", accept)), draw(mutate_bytes(body))
    )


@st.composite
def image_requests(draw: st.DrawFn, model: str) -> HostileRequest:
    """A `predict` request of an image file, as it is or in base64."""
    body = draw(mutate_bytes(draw(st.sampled_from(IMAGES))))
    if draw(st.booleans()):
        return HostileRequest(model, PREDICT, (("content-type", draw(st.sampled_from(CONTENT_TYPES))),), body)
    text = draw(st.sampled_from(("", "data:image/png;base64,"))) + base64.b64encode(body).decode()
    return HostileRequest(model, PREDICT, (), json.dumps({"inputs": [text] * draw(st.integers(1, 3))}).encode())


@st.composite
def infer_requests(draw: st.DrawFn, model: str, valid: dict[str, Any]) -> HostileRequest:
    """An Open Inference Protocol request in JSON."""
    body = json.dumps(draw(mutate_json(valid))).encode()
    lengths = st.sampled_from(("",) * 60 + HEADER_LENGTHS + (str(len(body)),))
    return HostileRequest(model, INFER, _length_header(draw(lengths)), draw(mutate_bytes(body)))


@st.composite
def binary_infer_requests(draw: st.DrawFn, model: str, valid: dict[str, Any], itemsize: int) -> HostileRequest:
    """An Open Inference Protocol request with its values, or texts, as bytes behind the JSON."""
    request = copy.deepcopy(valid)
    (tensor,) = request["inputs"]
    if draw(st.integers(0, 3)) == 0:
        texts = draw(st.lists(st.binary(max_size=9), max_size=3))
        tail = b"".join(struct.pack("<I", draw(st.sampled_from((len(t), 2**32 - 1)))) + t for t in texts)
        tensor |= {"datatype": "BYTES", "shape": [len(texts)]}
    else:
        count = len(_flatten(tensor["data"]))
        size = draw(st.sampled_from((count * itemsize, count * itemsize, count * itemsize - 1, 0)))
        tail = draw(st.sampled_from((bytes(size), b"\xff" * size, draw(st.binary(min_size=size, max_size=size)))))
    del tensor["data"]
    tensor["parameters"] = {"binary_data_size": draw(st.sampled_from((len(tail), len(tail), *LARGE[:4], 0, -1)))}
    request["parameters"] = {"binary_data_output": draw(st.booleans())}
    body = json.dumps(draw(mutate_json(request, max_mutations=1))).encode()
    length = draw(st.sampled_from((str(len(body)),) * 12 + (str(len(body) + 1), str(len(body) - 1), *HEADER_LENGTHS)))
    return HostileRequest(
        model, INFER, (("content-type", OCTET_STREAM), *_length_header(length)), draw(mutate_bytes(body + tail))
    )


@st.composite
def arbitrary_requests(draw: st.DrawFn, model: str) -> HostileRequest:
    """A body that does not come from a valid request."""
    some_json = st.recursive(
        st.sampled_from(ATOMS), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner)
    )
    body = draw(
        st.one_of(st.binary(max_size=200), st.sampled_from(LONG_BODIES + SEPARATORS), some_json.map(_encode_json))
    )
    content_type = ("content-type", draw(st.sampled_from(CONTENT_TYPES)))
    return HostileRequest(
        model,
        draw(st.sampled_from((INFER, PREDICT))),
        (content_type, *_length_header(draw(st.sampled_from(HEADER_LENGTHS)))),
        body,
    )


def _encode_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _length_header(length: str) -> tuple[tuple[str, str], ...]:
    return (("inference-header-content-length", length),) if length else ()


def _flatten(data: Any) -> list[Any]:
    return [value for item in data for value in _flatten(item)] if isinstance(data, list) else [data]
