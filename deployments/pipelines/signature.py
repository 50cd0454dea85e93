"""Signatures: what a model or pipeline takes and gives; what the steps of a pipeline are checked with.

A model's comes from its bundle's manifest, a pipeline's from those of its steps.
"""

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, JsonValue

from training.bundle import Manifest
from training.closed import Closed
from training.errors import Mistake
from training.words import (
    Answer,
    Boxes,
    Classes,
    Continuation,
    ImageWords,
    Number,
    Picture,
    SeriesWords,
    Spans,
    TableWords,
    TextWords,
    Words,
)


class Several(Closed):
    """An answer under each name."""

    kind: Literal["several"] = "several"
    answers: "dict[str, Gives]"


class OneOf(Closed):
    """The answer of one of these, and its name as `branch`."""

    kind: Literal["one-of"] = "one-of"
    answers: "dict[str, Gives]"


class Items(Closed):
    """Boxes or spans, each with a further answer of its own as `answer`."""

    kind: Literal["items"] = "items"
    of: Boxes | Spans
    answer: "Gives"


Gives = Annotated[
    "Classes | Number | Spans | Continuation | Boxes | Picture | Several | OneOf | Items", Field(discriminator="kind")
]
"""What comes back: a model's own answer, or one that is made of several."""

PLAIN = get_args(get_args(Answer)[0])


class Signature(Closed):
    """What goes in and comes out."""

    takes: tuple[Words, ...] = Field(min_length=1, description="A row must be right for each of these.")
    gives: Gives
    example: JsonValue = Field(description="One row that works.")


def of_model(manifest: Manifest, example: dict[str, Any]) -> Signature:
    """A model's signature; `example` is its bundle's request."""
    answer = manifest.answer
    if isinstance(answer, Classes):
        # How scores came about is no part of what they are.
        answer = answer.model_copy(update={"temperature": 1.0})
    return Signature(takes=(manifest.words,), gives=answer, example=example["inputs"][0])


def plain(gives: Any) -> Any:
    """A model's own kind of answer: of a branch whose arms answer alike, theirs; None where it is made of several."""
    if isinstance(gives, OneOf):
        found = [plain(each) for each in gives.answers.values()]
        return found[0] if all(alike(found[0], each) for each in found) else None
    return gives if isinstance(gives, PLAIN) else None


def alike(one: Any, other: Any) -> bool:
    """Whether two plain answers say the same things, in whatever order their labels are."""
    if isinstance(one, Classes) and isinstance(other, Classes):
        return set(one.labels) == set(other.labels)
    return one is not None and one == other


def has_labels(gives: Any) -> bool:
    """Whether a request may choose how many labels it wants (top_k)."""
    if isinstance(gives, Several | OneOf):
        return any(has_labels(each) for each in gives.answers.values())
    return has_labels(gives.answer) if isinstance(gives, Items) else isinstance(gives, Classes)


def agreed(path: str, takes: list[tuple[str, tuple[Words, ...]]]) -> tuple[Words, ...]:
    """The words that a row must be right for when it goes to each of several nodes.

    Args:
        path: of the node that sends it.
        takes: each one's name and words.

    Raises:
        Mistake: no row can be right for all of them.
    """
    (first, (wanted, *_)), found = takes[0], dict[str, Words]()
    for name, words in takes:
        for each in words:
            if row_of(each) != row_of(wanted):
                raise Mistake(
                    f"{path}: {name} takes {said(each)}, but {first} takes {said(wanted)}; "
                    "all of them get the same rows, so they must take the same"
                )
            found[each.model_dump_json()] = each
    return tuple(found.values())


def row_of(words: Words) -> Any:
    """What must be the same for one row to be right for two models; sizes of pictures and texts need not be."""
    if isinstance(words, TableWords):
        return words.features
    if isinstance(words, SeriesWords):
        return ("series", words.features)
    return ("text", words.predicate) if isinstance(words, TextWords) else "image"


def said(words: Words) -> str:
    """Words in words."""
    if isinstance(words, TableWords):
        return f"records of {', '.join(words.names)}"
    if isinstance(words, SeriesWords):
        return f"series of {', '.join(words.features)}"
    if isinstance(words, ImageWords):
        return "pictures"
    return "texts with a predicate" if words.predicate else "texts"


def told(gives: Any) -> str:
    """An answer in words."""
    if isinstance(gives, Classes):
        return f"labels ({', '.join(gives.labels[:4])}{', ...' if len(gives.labels) > 4 else ''})"
    kinds = {
        "number": "a number",
        "spans": "spans",
        "continuation": "a text",
        "boxes": "boxes",
        "picture": "a picture",
        "several": "several answers",
        "one-of": "one of several answers",
        "items": "an answer for each of its boxes or spans",
    }
    return kinds[gives.kind]
