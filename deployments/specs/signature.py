"""Signatures: what a model or pipeline takes and gives; what the steps of a pipeline are checked with.

A model's comes from its bundle's manifest, a pipeline's from those of its steps.
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
    """An answer under each name."""

    kind: Literal["named"] = "named"
    outputs: "dict[str, PipelineOutput]"


class BranchOutput(StrictModel):
    """The answer of one of these, and its name as `branch`."""

    kind: Literal["branch"] = "branch"
    outputs: "dict[str, PipelineOutput]"


class ItemOutputs(StrictModel):
    """Boxes or spans, each with a further answer of its own as `answer`."""

    kind: Literal["items"] = "items"
    of: BoxOutput | SpanOutput
    output: "PipelineOutput"


PipelineOutput = Annotated[
    "ClassOutput | NumberOutput | SpanOutput | TextOutput | BoxOutput | ImageOutput | NamedOutputs | BranchOutput | ItemOutputs",
    Field(discriminator="kind"),
]
"""What comes back: a model's own answer, or one that is made of several."""

MODEL_OUTPUTS = get_args(get_args(OutputSchema)[0])


class Signature(StrictModel):
    """What goes in and comes out."""

    inputs: tuple[InputSchema, ...] = Field(min_length=1, description="A row must be right for each of these.")
    output: PipelineOutput
    example: JsonValue = Field(description="One row that works.")


def model_signature(manifest: Manifest, example: dict[str, Any]) -> Signature:
    """A model's signature; `example` is its bundle's request."""
    answer = manifest.output_schema
    if isinstance(answer, ClassOutput):
        # How scores came about is no part of what they are.
        answer = answer.model_copy(update={"temperature": 1.0})
    return Signature(inputs=(manifest.input_schema,), output=answer, example=example["inputs"][0])


def common_output(gives: Any) -> Any:
    """A model's own kind of answer: of a branch whose arms answer alike, theirs; None where it is made of several."""
    if isinstance(gives, BranchOutput):
        found = [common_output(each) for each in gives.outputs.values()]
        return found[0] if all(same_output(found[0], each) for each in found) else None
    return gives if isinstance(gives, MODEL_OUTPUTS) else None


def same_output(one: Any, other: Any) -> bool:
    """Whether two plain answers say the same things, in whatever order their labels are."""
    if isinstance(one, ClassOutput) and isinstance(other, ClassOutput):
        return set(one.labels) == set(other.labels)
    return one is not None and one == other


def has_labels(gives: Any) -> bool:
    """Whether a request may choose how many labels it wants (top_k)."""
    if isinstance(gives, NamedOutputs | BranchOutput):
        return any(has_labels(each) for each in gives.outputs.values())
    return has_labels(gives.output) if isinstance(gives, ItemOutputs) else isinstance(gives, ClassOutput)


def merge_inputs(path: str, takes: list[tuple[str, tuple[InputSchema, ...]]]) -> tuple[InputSchema, ...]:
    """The words that a row must be right for when it goes to each of several nodes.

    Args:
        path: of the node that sends it.
        takes: each one's name and words.

    Raises:
        Mistake: no row can be right for all of them.
    """
    (first, (wanted, *_)), found = takes[0], dict[str, InputSchema]()
    for name, words in takes:
        for each in words:
            if row_type(each) != row_type(wanted):
                raise UserError(
                    f"{path}: {name} takes {describe_input(each)}, but {first} takes {describe_input(wanted)}; "
                    "all of them get the same rows, so they must take the same"
                )
            found[each.model_dump_json()] = each
    return tuple(found.values())


def row_type(words: InputSchema) -> Any:
    """What must be the same for one row to be right for two models; sizes of pictures and texts need not be."""
    if isinstance(words, TableInput):
        return words.features
    if isinstance(words, SeriesInput):
        return ("series", words.features)
    return ("text", words.has_predicate) if isinstance(words, TextInput) else "image"


def describe_input(words: InputSchema) -> str:
    """Words in words."""
    if isinstance(words, TableInput):
        return f"records of {', '.join(words.feature_names)}"
    if isinstance(words, SeriesInput):
        return f"series of {', '.join(words.features)}"
    if isinstance(words, ImageInput):
        return "pictures"
    return "texts with a predicate" if words.has_predicate else "texts"


def describe_output(gives: Any) -> str:
    """An answer in words."""
    if isinstance(gives, ClassOutput):
        return f"labels ({', '.join(gives.labels[:4])}{', ...' if len(gives.labels) > 4 else ''})"
    kinds = {
        "number": "a number",
        "spans": "spans",
        "text": "a text",
        "boxes": "boxes",
        "image": "an image",
        "named": "several outputs",
        "branch": "one of several outputs",
        "items": "an output for each of its boxes or spans",
    }
    return kinds[gives.kind]
