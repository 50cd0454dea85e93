"""Transfers: what of one answer becomes the next step's rows; a closed set, each checked before it is ever used.

    take            of             becomes
    text            a text         a text
    label           labels         a text, or a record of one feature that has these levels
    scores          labels         a record of numbers, one feature for each label
    record          label, number  the row itself, with the label as `label`, or the number under its name, added
    reconstruction  a picture      a picture
    latent          a picture      a record of as many numbers
    spans           spans          texts, one for each span
    crops           boxes          pictures, one cut out for each box

The last two make several rows of one: what follows is answered for each, and told with it as `answer`.
"""

import asyncio
import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from deployments.protocols.predict.images import FORMATS
from deployments.specs.pipeline import AdapterName
from deployments.specs.signature import common_output, describe_input, describe_output
from training.data import images
from training.errors import UserError
from training.schema import (
    BoxOutput,
    ClassOutput,
    Feature,
    ImageInput,
    ImageOutput,
    InputSchema,
    NumberOutput,
    SpanOutput,
    TableInput,
    TextInput,
    TextOutput,
)

SOURCES: dict[AdapterName, tuple[type, ...]] = {
    "text": (TextOutput,),
    "label": (ClassOutput,),
    "scores": (ClassOutput,),
    "record": (ClassOutput, NumberOutput),
    "reconstruction": (ImageOutput,),
    "latent": (ImageOutput,),
    "spans": (SpanOutput,),
    "crops": (BoxOutput,),
}


@dataclass(frozen=True)
class Adapter:
    """A checked transfer.

    Attributes:
        make: a row as sent and its prediction to the next step's rows: one, or where `items` is set, any number.
        items: the key of the prediction's boxes or spans, each of which gets an answer of its own; None: one to one.
        of: what those boxes or spans are.
    """

    make: Callable[[Any, Any], list[Any]]
    items: str | None = None
    of: BoxOutput | SpanOutput | None = None

    async def rows(self, row: Any, prediction: Any) -> list[Any]:
        """Make the next rows; pictures are cut in a thread."""
        if self.items == "boxes":
            return await asyncio.to_thread(self.make, row, prediction)
        return self.make(row, prediction)


def build_adapter(
    where: str, take: AdapterName, sent: tuple[InputSchema, ...], gives: Any, takes: tuple[InputSchema, ...]
) -> Adapter:
    """Check that an answer's part fits what the next step takes.

    Args:
        where: path of the step that takes.
        take: which part.
        sent: what the step before takes.
        gives: what it answers with.
        takes: what this step takes.

    Raises:
        Mistake: it does not fit.
    """
    answer = common_output(gives)
    possible = [name for name, kinds in SOURCES.items() if isinstance(answer, kinds)]
    if take not in possible:
        raise UserError(
            f"{where}: cannot take {take} of {describe_output(gives)}, which is what the step before answers with; "
            f"possible: {', '.join(possible) or 'nothing'}"
        )
    found = [_build_for_input(where, take, sent[0], answer, words) for words in takes]
    return found[0]


def _build_for_input(where: str, take: AdapterName, sent: InputSchema, answer: Any, takes: InputSchema) -> Adapter:
    if take == "text":
        _require_fit(where, take, isinstance(takes, TextInput) and not takes.has_predicate, "a text", takes)
        return Adapter(lambda row, said_: [said_["text"]])
    if take == "label":
        if isinstance(takes, TableInput):
            _check_one_feature(where, answer.labels, takes)
            return Adapter(lambda row, said_: [[said_["label"]]])
        _require_fit(where, take, isinstance(takes, TextInput) and not takes.has_predicate, "a text", takes)
        return Adapter(lambda row, said_: [said_["label"]])
    if take == "scores":
        wanted = dict.fromkeys(answer.labels)
        _require_fit(
            where, take, _feature_categories(takes) == wanted, f"a record of {', '.join(answer.labels)}", takes
        )
        return Adapter(lambda row, said_: [said_["scores"]])
    if take == "record":
        return _record_adapter(where, sent, answer, takes)
    if take == "reconstruction":
        _require_fit(where, take, isinstance(takes, ImageInput), "a picture", takes)
        return Adapter(lambda row, said_: [said_["reconstruction"]])
    if take == "latent":
        numbers = [None] * answer.latent_size
        fits = isinstance(takes, TableInput) and list(_feature_categories(takes).values()) == numbers
        _require_fit(where, take, fits, f"a record of {answer.latent_size} numbers", takes)
        return Adapter(lambda row, said_: [said_["latent"]])
    if take == "spans":
        _require_fit(where, take, isinstance(takes, TextInput) and not takes.has_predicate, "texts", takes)
        return Adapter(lambda row, said_: [span["text"] for span in said_["spans"]], "spans", answer)
    _require_fit(where, take, isinstance(takes, ImageInput), "pictures", takes)
    assert isinstance(sent, ImageInput)
    return Adapter(lambda row, said_: crop_boxes(row, said_["boxes"], sent), "boxes", answer)


def _require_fit(where: str, take: AdapterName, fits: bool, made: str, takes: InputSchema) -> None:
    if not fits:
        raise UserError(f"{where}: takes {describe_input(takes)}, but `take: {take}` makes {made}")


def _feature_categories(words: InputSchema) -> dict[str, tuple[str, ...] | None]:
    return {feature.name: feature.categories for feature in words.features} if isinstance(words, TableInput) else {}


def _check_one_feature(where: str, labels: tuple[str, ...], takes: TableInput) -> None:
    levels = takes.features[0].categories or ()
    unknown = [label for label in labels if label not in levels]
    if len(takes.features) != 1 or unknown:
        lacking = f", which is never {unknown[0]!r}" if levels and unknown else ""
        raise UserError(
            f"{where}: takes {describe_input(takes)}{lacking}, but `take: label` makes a record of one feature that is one of "
            f"{', '.join(labels)}"
        )


def _record_adapter(where: str, sent: InputSchema, answer: Any, takes: InputSchema) -> Adapter:
    """The row itself with the answer added, without what the next step does not take."""
    if not isinstance(sent, TableInput) or not isinstance(takes, TableInput):
        raise UserError(
            f"{where}: `take: record` is from records to records; here from {describe_input(sent)} to {describe_input(takes)}"
        )
    added = (
        Feature(name="label", categories=answer.labels)
        if isinstance(answer, ClassOutput)
        else Feature(name=answer.name)
    )
    if added.name in sent.feature_names:
        raise UserError(f"{where}: the record before has a feature {added.name!r} already; `take: record` would add it")
    have = {feature.name: feature.categories for feature in (*sent.features, added)}
    for name, levels in _feature_categories(takes).items():
        given = have.get(name, ())
        if name not in have or (given is None) != (levels is None) or not set(given or ()) <= set(levels or ()):
            what = f"one of {', '.join(levels)}" if levels else "a number"
            raise UserError(
                f"{where}: takes {name!r} ({what}), which is not in the record before, {', '.join(have)}, "
                "or has other values there"
            )
    if sent.allow_missing and not takes.allow_missing:
        raise UserError(f"{where}: takes whole records, but features may be missing in those of the step before")
    names, wanted, key = sent.feature_names, takes.feature_names, added.name

    def make(row: Any, prediction: Any) -> list[Any]:
        record = dict(zip(names, row, strict=True)) if isinstance(row, list) else row
        return [{name: value for name, value in (record | {key: prediction[key]}).items() if name in wanted}]

    return Adapter(make)


def crop_boxes(row: Any, boxes: list[Any], words: ImageInput) -> list[str]:
    """Cut each box out of a picture; PNG files in base64.

    Args:
        row: the picture as it was sent, in base64 or as lists of pixels.
        boxes: in its pixels; what lies outside of it is left out, and at least one pixel is kept.
        words: what it was read as.
    """
    if not boxes:
        return []
    picture = _decode_image(row, words)
    cut = []
    for box in boxes:
        x1, y1, x2, y2 = box["box"]
        left = min(max(int(x1), 0), picture.width - 1)
        top = min(max(int(y1), 0), picture.height - 1)
        right = min(max(round(x2), left + 1), picture.width)
        bottom = min(max(round(y2), top + 1), picture.height)
        out = io.BytesIO()
        picture.crop((left, top, right, bottom)).save(out, "PNG")
        cut.append(base64.b64encode(out.getvalue()).decode())
    return cut


def _decode_image(row: Any, words: ImageInput) -> Image.Image:
    """Decode what a step has decoded before, with its limits: so nothing can be wrong with it any more."""
    if isinstance(row, str):
        raw = base64.b64decode(row.partition(",")[2] if row.startswith("data:") else row)
        return images.orient_and_convert(Image.open(io.BytesIO(raw), formats=FORMATS), words.mode)
    pixels = np.array(row, dtype=np.uint8).reshape(words.channels, words.height, words.width)
    return Image.fromarray(pixels[0] if words.mode == "L" else pixels.transpose(1, 2, 0))
