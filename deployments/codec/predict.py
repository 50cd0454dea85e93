"""The task's own words: a request is {"inputs": [one item per row], ...}; for image models also a picture's own bytes.

Request walk: ingress.py -> [predict.py: rows.py] -> batching.py -> [predict.py: answers.py]
"""

from dataclasses import dataclass
from typing import Any

import msgspec
import torch

from deployments.codec.answers import BOUNDS, REQUESTS, predictions
from deployments.codec.arrays import Outputs, Rows
from deployments.codec.rows import Reader
from deployments.errors import Empty, MalformedBody, TooLarge, WrongContentType, WrongType
from deployments.settings import Limits
from training.bundle import Manifest
from training.tokens import Tokeniser
from training.words import ImageWords

IMAGE_TYPES = {"image/png", "image/jpeg", "image/webp"}

_ENCODER = msgspec.json.Encoder()


@dataclass(frozen=True)
class Asked:
    """A request that was read.

    Attributes:
        x: rows of the net's input; None where the request has none.
        known: what the answer to each row must know of it.
        request: what else was chosen; one of answers.REQUESTS.
    """

    x: Rows | None
    known: list[Any]
    request: Any


def json_body(value: dict[str, Any]) -> bytes:
    """Write a request body."""
    return _ENCODER.encode(value)


def read_form(body: bytes, kind: str, form: Any, takes_pictures: bool) -> Any:
    """Read a JSON body into one of the forms that a request has; `kind` is its content type, bare and in lower case.

    Raises:
        WrongContentType: it is not JSON.
        MalformedBody: it is not of the form.
    """
    if kind not in ("application/json", ""):
        also = ", ".join(sorted(IMAGE_TYPES)) if takes_pictures else "nothing else"
        raise WrongContentType(f"content type {kind!r}; send application/json or {also}")
    try:
        return msgspec.json.decode(body, type=form)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        said = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise MalformedBody(f'the body is not {{"inputs": [...]}}: {said}') from None


class Codec:
    """Reads and writes `predict` bodies for one model version."""

    def __init__(self, manifest: Manifest, version: str, limits: Limits, tokeniser: Tokeniser | None = None) -> None:
        self._manifest, self._version, self._limits = manifest, version, limits
        self._reader = Reader(manifest, limits, tokeniser)
        self._form = REQUESTS[manifest.answer.kind]
        self._needs_rows = manifest.answer.kind != "picture"

    def decode(self, body: bytes, content_type: str) -> Asked:
        """Read a request.

        Raises:
            ClientError: one of many; see deployments.errors.
        """
        takes_pictures = isinstance(self._manifest.words, ImageWords)
        kind = content_type.partition(";")[0].strip().lower()
        if kind in IMAGE_TYPES and takes_pictures:
            x, known = self._reader.picture(body)
            return Asked(x, known, self._form([]))
        request = read_form(body, kind, self._form, takes_pictures)
        for name, (least, most) in BOUNDS.items():
            value = getattr(request, name, None)
            if value is not None and not least <= value <= most:
                raise WrongType(f"{name} is {value}; make it {least} to {most}")
        if not request.inputs:
            if self._needs_rows or not request.samples:
                raise Empty("inputs is empty; send one row at least")
            return Asked(None, [], request)
        if len(request.inputs) > self._limits.max_rows:
            raise TooLarge(f"{len(request.inputs)} rows; the limit is {self._limits.max_rows}; send several requests")
        x, known = self._reader.read(request.inputs)
        return Asked(x, known, request)

    def encode(self, outputs: Outputs, asked: Asked) -> bytes:
        """Write an answer from what the net gives."""
        tensors = tuple(torch.from_numpy(y) for y in outputs)
        return self.said(predictions(self._manifest, tensors, asked.known, asked.request))

    def said(self, answers: list[dict[str, Any]], **more: Any) -> bytes:
        """Write an answer from its predictions."""
        body = {"model": self._manifest.name, "version": self._version, "predictions": answers}
        return _ENCODER.encode(body | more)
