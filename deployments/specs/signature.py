"""Signatures: the input and output schemas of a model or pipeline, which the nodes of a pipeline are checked with.

A model's comes from its bundle's manifest, a pipeline's from those of its nodes.
"""

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, JsonValue

from training.bundle.manifest import Manifest
from training.errors import UserError
from training.schema import (
    BoxOutput,
    ClassOutput,
    ImageInput,
    ImageOutput,
    InputSchema,
    NumberOutput,
    OutputSchema,
    SeriesInput,
    SpanOutput,
    StrictModel,
    TableInput,
    TextInput,
    TextOutput,
)


class NamedOutputs(StrictModel):
    """One output under each name."""

    kind: Literal["named"] = "named"
    outputs: "dict[str, PipelineOutput]"


class BranchOutput(StrictModel):
    """The output of one of these nodes, with the case's name as `branch`."""

    kind: Literal["branch"] = "branch"
    outputs: "dict[str, PipelineOutput]"


class ItemOutputs(StrictModel):
    """Boxes or spans, each with an output of its own as `output`."""

    kind: Literal["items"] = "items"
    items: BoxOutput | SpanOutput
    output: "PipelineOutput"


PipelineOutput = Annotated[
    "ClassOutput | NumberOutput | SpanOutput | TextOutput | BoxOutput | ImageOutput"
    " | NamedOutputs | BranchOutput | ItemOutputs",
    Field(discriminator="kind"),
]
"""Output schema of a node: a model's, or one composed of several."""

MODEL_OUTPUTS = get_args(get_args(OutputSchema)[0])
"""The output schemas that a single model may have."""


class Signature(StrictModel):
    """Input and output schemas."""

    inputs: tuple[InputSchema, ...] = Field(min_length=1, description="Each row must be valid for all of these.")
    output: PipelineOutput
    example: JsonValue = Field(description="A valid row.")


def build_model_signature(manifest: Manifest, example: dict[str, Any]) -> Signature:
    """Build a model's signature.

    Args:
        manifest: of its bundle.
        example: the bundle's example request.
    """
    output = manifest.output_schema
    if isinstance(output, ClassOutput):
        # The temperature is already applied to the scores that a pipeline sees.
        output = output.model_copy(update={"temperature": 1.0})
    return Signature(inputs=(manifest.input_schema,), output=output, example=example["inputs"][0])


def reduce_to_model_output(output: Any) -> Any:
    """Reduce an output to a model's: of a branch whose cases agree, theirs; None where it is composed of several."""
    if isinstance(output, BranchOutput):
        first, *others = [reduce_to_model_output(each) for each in output.outputs.values()]
        return first if all(outputs_match(first, other) for other in others) else None
    return output if isinstance(output, MODEL_OUTPUTS) else None


def outputs_match(first: Any, second: Any) -> bool:
    """Whether two model outputs are the same but for the order of their labels."""
    if isinstance(first, ClassOutput) and isinstance(second, ClassOutput):
        return set(first.labels) == set(second.labels)
    return first is not None and first == second


def has_class_output(output: Any) -> bool:
    """Whether any part of an output is class scores, so that a request may set top_k."""
    if isinstance(output, NamedOutputs | BranchOutput):
        return any(has_class_output(each) for each in output.outputs.values())
    return has_class_output(output.output) if isinstance(output, ItemOutputs) else isinstance(output, ClassOutput)


def merge_inputs(path: str, named_inputs: list[tuple[str, tuple[InputSchema, ...]]]) -> tuple[InputSchema, ...]:
    """Merge the input schemas of nodes that get the same rows.

    Args:
        path: of the node that sends the rows.
        named_inputs: path and input schemas of each node that gets them.

    Returns:
        The distinct schemas; a row must be valid for all of them.

    Raises:
        UserError: no row can be valid for all of them.
    """
    first_name, (first_schema, *_) = named_inputs[0]
    merged: dict[str, InputSchema] = {}
    for name, schemas in named_inputs:
        for schema in schemas:
            if get_row_type(schema) != get_row_type(first_schema):
                raise UserError(
                    f"{path}: {name} takes {describe_input(schema)}, but {first_name} takes "
                    f"{describe_input(first_schema)}; nodes that get the same rows must take the same input"
                )
            merged[schema.model_dump_json()] = schema
    return tuple(merged.values())


def get_row_type(schema: InputSchema) -> Any:
    """Get what two schemas must share for one row to fit both; sizes of images and lengths of texts may differ."""
    if isinstance(schema, TableInput):
        return schema.features
    if isinstance(schema, SeriesInput):
        return ("series", schema.features)
    return ("text", schema.has_predicate) if isinstance(schema, TextInput) else "image"


def describe_input(schema: InputSchema) -> str:
    """Describe an input schema for a message."""
    if isinstance(schema, TableInput):
        return f"records of {', '.join(schema.feature_names)}"
    if isinstance(schema, SeriesInput):
        return f"series of {', '.join(schema.features)}"
    if isinstance(schema, ImageInput):
        return "images"
    return "texts with a predicate" if schema.has_predicate else "texts"


def describe_output(output: Any) -> str:
    """Describe an output schema for a message."""
    if isinstance(output, ClassOutput):
        return f"labels ({', '.join(output.labels[:4])}{', ...' if len(output.labels) > 4 else ''})"
    descriptions = {
        "number": "a number",
        "spans": "spans",
        "text": "a text",
        "boxes": "boxes",
        "image": "an image",
        "named": "several outputs",
        "branch": "one of several outputs",
        "items": "an output for each of its boxes or spans",
    }
    return descriptions[output.kind]
