"""Hostile requests: valid ones of every kind of model, broken in structure, in bytes, and in what they claim."""

import base64
import copy
import io
import json
import struct
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from PIL import Image

OIP, WORDS, BINARY = "infer", "predict", "application/octet-stream"
# Not 504s that a request asks for itself, by a timeout of microseconds: its values below are none or long.
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
LONG = (b"[" * 3000, b'{"inputs":' * 600, b'{"inputs":[' * 400, b'{"a":' * 2000, b"[" * 3000 + b"]" * 3000)
HEADER_LENGTHS = ("0", "-1", "1", "99999999", "9" * 16, "9" * 400, "1e3", "0x10", " 7", "٣", "+5", "")
TYPES = (
    "application/json",
    "APPLICATION/JSON; charset=utf-16",
    "",
    "image/png",
    "image/webp",
    "text/html",
    BINARY,
    "a" * 300,
)


@dataclass(frozen=True)
class Hostile:
    """One request to one model: which, at which path, with which headers and body."""

    model: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


def picture(kind: str, mode: str = "L", size: tuple[int, int] = (9, 7)) -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert(mode).save(out, kind)
    return out.getvalue()


PICTURES = [picture(kind, mode) for kind in ("PNG", "JPEG", "WEBP") for mode in ("L", "RGB")] + [
    picture("PNG", "1"),
    picture("PNG", "RGBA"),
    picture("GIF"),
    picture("BMP"),
    picture("PNG", size=(600, 600)),
]


@st.composite
def spoilt(draw: st.DrawFn, value: Any, most: int = 3) -> Any:
    """A value with some of its parts left out, replaced, repeated, or named otherwise."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(0, most))):
        places = _places(value)
        holder, key = places[draw(st.integers(0, len(places) - 1))]
        what = draw(st.integers(0, 5))
        if what == 0:
            del holder[key]
        elif what == 1 and isinstance(holder, dict):
            holder[draw(st.sampled_from(("", "inputs", "x", "data", "stream", "parameters")))] = holder.pop(key)
        elif what == 1:
            holder.insert(key, copy.deepcopy(holder[key]))
        elif what == 2:
            holder[key] = [holder[key]] * (draw(st.sampled_from((1, 2, 65))) if len(places) < 200 else 2)
        elif what == 3:
            holder[key] = draw(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()))
        else:
            holder[key] = copy.deepcopy(draw(st.sampled_from(ATOMS)))
        if not _places(value):
            break
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every part of a value, as what holds it and where."""
    found: list[tuple[Any, Any]] = []
    pending = [value]
    while pending:
        holder = pending.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        found += [(holder, key) for key in keys]
        pending += [holder[key] for key in keys]
    return found


@st.composite
def torn(draw: st.DrawFn, raw: bytes) -> bytes:
    """Bytes with some of them cut off, changed, repeated or put in."""
    what = draw(st.integers(0, 15))
    at = draw(st.integers(0, len(raw)))
    if what == 0:
        return raw[:at]
    if what == 1:
        return raw[:at] + draw(st.sampled_from(SEPARATORS)) + raw[at:]
    if what == 2:
        return raw[:at] + draw(st.binary(min_size=1, max_size=4)) + raw[at + 1 :]
    if what == 3:
        return raw[at:] + raw[:at]
    return raw


@st.composite
def in_words(draw: st.DrawFn, model: str, valid: list[dict[str, Any]]) -> Hostile:
    """A request in the words of the task."""
    raw = json.dumps(draw(spoilt(draw(st.sampled_from(valid)))), ensure_ascii=draw(st.booleans())).encode(
        "utf-8", "surrogatepass"
    )
    accept = draw(st.sampled_from(("*/*", "*/*", "*/*", "text/event-stream")))
    kind = draw(st.sampled_from(("application/json",) * 8 + TYPES))
    return Hostile(model, WORDS, (("content-type", kind), ("accept", accept)), draw(torn(raw)))


@st.composite
def as_picture(draw: st.DrawFn, model: str) -> Hostile:
    """A picture's bytes as they are, or in base64."""
    raw = draw(torn(draw(st.sampled_from(PICTURES))))
    if draw(st.booleans()):
        return Hostile(model, WORDS, (("content-type", draw(st.sampled_from(TYPES))),), raw)
    text = draw(st.sampled_from(("", "data:image/png;base64,"))) + base64.b64encode(raw).decode()
    return Hostile(model, WORDS, (), json.dumps({"inputs": [text] * draw(st.integers(1, 3))}).encode())


@st.composite
def in_tensors(draw: st.DrawFn, model: str, valid: dict[str, Any]) -> Hostile:
    """An Open Inference Protocol request in JSON."""
    raw = json.dumps(draw(spoilt(valid))).encode()
    lengths = st.sampled_from(("",) * 60 + HEADER_LENGTHS + (str(len(raw)),))
    return Hostile(model, OIP, _length(draw(lengths)), draw(torn(raw)))


@st.composite
def in_binary(draw: st.DrawFn, model: str, valid: dict[str, Any], itemsize: int) -> Hostile:
    """An Open Inference Protocol request whose values, or texts, follow its JSON as bytes."""
    request = copy.deepcopy(valid)
    (tensor,) = request["inputs"]
    if draw(st.integers(0, 3)) == 0:
        texts = draw(st.lists(st.binary(max_size=9), max_size=3))
        tail = b"".join(struct.pack("<I", draw(st.sampled_from((len(t), 2**32 - 1)))) + t for t in texts)
        tensor |= {"datatype": "BYTES", "shape": [len(texts)]}
    else:
        count = len(_flat(tensor["data"]))
        size = draw(st.sampled_from((count * itemsize, count * itemsize, count * itemsize - 1, 0)))
        tail = draw(st.sampled_from((bytes(size), b"\xff" * size, draw(st.binary(min_size=size, max_size=size)))))
    del tensor["data"]
    tensor["parameters"] = {"binary_data_size": draw(st.sampled_from((len(tail), len(tail), *LARGE[:4], 0, -1)))}
    request["parameters"] = {"binary_data_output": draw(st.booleans())}
    raw = json.dumps(draw(spoilt(request, most=1))).encode()
    length = draw(st.sampled_from((str(len(raw)),) * 12 + (str(len(raw) + 1), str(len(raw) - 1), *HEADER_LENGTHS)))
    return Hostile(model, OIP, (("content-type", BINARY), *_length(length)), draw(torn(raw + tail)))


@st.composite
def garbage(draw: st.DrawFn, model: str) -> Hostile:
    """Nothing that was ever a request."""
    some_json = st.recursive(
        st.sampled_from(ATOMS), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner)
    )
    raw = draw(st.one_of(st.binary(max_size=200), st.sampled_from(LONG + SEPARATORS), some_json.map(_dumped)))
    kind = ("content-type", draw(st.sampled_from(TYPES)))
    return Hostile(
        model, draw(st.sampled_from((OIP, WORDS))), (kind, *_length(draw(st.sampled_from(HEADER_LENGTHS)))), raw
    )


def _dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


def _length(said: str) -> tuple[tuple[str, str], ...]:
    return (("inference-header-content-length", said),) if said else ()


def _flat(data: Any) -> list[Any]:
    return [each for part in data for each in _flat(part)] if isinstance(data, list) else [data]
