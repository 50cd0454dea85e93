"""Adapters: what of a node's output becomes the rows of the next; a closed set, each checked before it runs.

    input_from      source output   rows of the next node
    text            a text          a text
    label           labels          a text, or a record of one feature with these categories
    scores          labels          a record of numbers, one feature for each label
    record          label, number   the row itself, with the label as `label` or the number under its name added
    reconstruction  an image        an image
    latent          an image        a record of as many numbers
    spans           spans           texts, one for each span
    crops           boxes           images, one cropped for each box

The last two make several rows of one: each box or span gets what the following nodes return for it, as `output`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deployments.pipelines.crops import crop_boxes
from deployments.pipelines.request_context import RequestContext
from deployments.protocols.predict.images import run_in_image_thread
from deployments.specs.pipeline import AdapterName
from deployments.specs.signature import describe_input, describe_output, reduce_to_model_output
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


@dataclass(frozen=True)
class Adapter:
    """A checked conversion.

    Attributes:
        convert: a row as sent and its prediction to rows of the next node: one, or any number where `items_key` is set;
            of boxes, within the request's budget of crops, its third argument.
        items_key: key of the prediction's boxes or spans, each of which gets an output of its own; None: one to one.
        items_output: output schema of those boxes or spans.
    """

    convert: Callable[..., list[Any]]
    items_key: str | None = None
    items_output: BoxOutput | SpanOutput | None = None

    async def convert_rows(self, row: Any, prediction: Any, context: RequestContext) -> list[Any]:
        """Convert one row; images are cropped in a thread."""
        if self.items_key == "boxes":
            return await run_in_image_thread(self.convert, row, prediction, context.crop_budget)
        return self.convert(row, prediction)


@dataclass(frozen=True)
class _Connection:
    """Two nodes to connect: input and output schema of the source, input schema of the target."""

    path: str
    name: AdapterName
    source_input: InputSchema
    output: Any
    target_input: InputSchema

    def require(self, fits: bool, produced: str) -> None:
        if not fits:
            raise UserError(
                f"{self.path} takes {describe_input(self.target_input)}, but `input_from: {self.name}` gives {produced}"
            )

    def takes_plain_texts(self) -> bool:
        return isinstance(self.target_input, TextInput) and not self.target_input.has_predicate


def build_adapter(
    path: str, name: AdapterName, source_inputs: tuple[InputSchema, ...], output: Any, inputs: tuple[InputSchema, ...]
) -> Adapter:
    """Check that a part of a node's output fits the input of the next, and build its adapter.

    Args:
        path: of the next node, for the message.
        name: which part.
        source_inputs: input schemas of the node before.
        output: its output schema.
        inputs: input schemas of the next node.

    Raises:
        UserError: it does not fit.
    """
    model_output = reduce_to_model_output(output)
    available = [each for each, (source_types, _) in _ADAPTERS.items() if isinstance(model_output, source_types)]
    if name not in available:
        raise UserError(
            f"{path}: `input_from: {name}` does not apply to {describe_output(output)}, the output of the node before; "
            f"available: {', '.join(available) or 'none'}"
        )
    _, build = _ADAPTERS[name]
    adapters = [build(_Connection(path, name, source_inputs[0], model_output, schema)) for schema in inputs]
    return adapters[0]


def _build_text(connection: _Connection) -> Adapter:
    connection.require(connection.takes_plain_texts(), "a text")
    return Adapter(lambda row, prediction: [prediction["text"]])


def _build_label(connection: _Connection) -> Adapter:
    target, labels = connection.target_input, connection.output.labels
    if isinstance(target, TableInput):
        categories = target.features[0].categories or ()
        unknown = [label for label in labels if label not in categories]
        if len(target.features) != 1 or unknown:
            hint = f", which is never {unknown[0]!r}" if categories and unknown else ""
            raise UserError(
                f"{connection.path} takes {describe_input(target)}{hint}, but `input_from: label` gives a record of "
                f"one feature that is one of {', '.join(labels)}"
            )
        return Adapter(lambda row, prediction: [[prediction["label"]]])
    connection.require(connection.takes_plain_texts(), "a text")
    return Adapter(lambda row, prediction: [prediction["label"]])


def _build_scores(connection: _Connection) -> Adapter:
    labels = connection.output.labels
    fits = _get_categories(connection.target_input) == dict.fromkeys(labels)
    connection.require(fits, f"a record of {', '.join(labels)}")
    return Adapter(lambda row, prediction: [prediction["scores"]])


def _build_record(connection: _Connection) -> Adapter:
    """The row itself with the prediction added, without the features that the next node does not take."""
    path, source, target = connection.path, connection.source_input, connection.target_input
    if not isinstance(source, TableInput) or not isinstance(target, TableInput):
        raise UserError(
            f"{path}: `input_from: record` connects records with records, not {describe_input(source)} with "
            f"{describe_input(target)}"
        )
    added = (
        Feature(name="label", categories=connection.output.labels)
        if isinstance(connection.output, ClassOutput)
        else Feature(name=connection.output.name)
    )
    if added.name in source.feature_names:
        raise UserError(
            f"{path}: `input_from: record` would add a feature {added.name!r}, which the records before have already"
        )
    available = _get_categories(source) | {added.name: added.categories}
    for name, categories in _get_categories(target).items():
        if name not in available or not _accepts(categories, available[name]):
            accepted = f"one of {', '.join(categories)}" if categories else "a number"
            raise UserError(
                f"{path} takes {name!r} ({accepted}), which the record before ({', '.join(available)}) does not have, "
                "or has with other values"
            )
    if source.allow_missing and not target.allow_missing:
        raise UserError(f"{path} takes complete records, but the node before allows missing features")
    source_names, target_names, key = source.feature_names, target.feature_names, added.name

    def convert(row: Any, prediction: Any) -> list[Any]:
        record = dict(zip(source_names, row, strict=True)) if isinstance(row, list) else row
        return [{name: value for name, value in (record | {key: prediction[key]}).items() if name in target_names}]

    return Adapter(convert)


def _build_reconstruction(connection: _Connection) -> Adapter:
    connection.require(isinstance(connection.target_input, ImageInput), "an image")
    return Adapter(lambda row, prediction: [prediction["reconstruction"]])


def _build_latent(connection: _Connection) -> Adapter:
    size = connection.output.latent_size
    fits = list(_get_categories(connection.target_input).values()) == [None] * size
    connection.require(fits, f"a record of {size} numbers")
    return Adapter(lambda row, prediction: [prediction["latent"]])


def _build_spans(connection: _Connection) -> Adapter:
    connection.require(connection.takes_plain_texts(), "texts")
    return Adapter(lambda row, prediction: [span["text"] for span in prediction["spans"]], "spans", connection.output)


def _build_crops(connection: _Connection) -> Adapter:
    connection.require(isinstance(connection.target_input, ImageInput), "images")
    schema = connection.source_input
    assert isinstance(schema, ImageInput)
    return Adapter(
        lambda row, prediction, budget: crop_boxes(row, prediction["boxes"], schema, budget),
        "boxes",
        connection.output,
    )


_ADAPTERS: dict[AdapterName, tuple[tuple[type, ...], Callable[[_Connection], Adapter]]] = {
    "text": ((TextOutput,), _build_text),
    "label": ((ClassOutput,), _build_label),
    "scores": ((ClassOutput,), _build_scores),
    "record": ((ClassOutput, NumberOutput), _build_record),
    "reconstruction": ((ImageOutput,), _build_reconstruction),
    "latent": ((ImageOutput,), _build_latent),
    "spans": ((SpanOutput,), _build_spans),
    "crops": ((BoxOutput,), _build_crops),
}
"""The output schemas that each reads, and the function that checks and builds it."""


def _get_categories(schema: InputSchema) -> dict[str, tuple[str, ...] | None]:
    """Each feature's categories, None for a number; none at all where rows are no records."""
    return {feature.name: feature.categories for feature in schema.features} if isinstance(schema, TableInput) else {}


def _accepts(target: tuple[str, ...] | None, source: tuple[str, ...] | None) -> bool:
    """Whether a feature of these categories takes every value of one of those."""
    return (target is None) == (source is None) and set(source or ()) <= set(target or ())
