"""Conditions of a branch: on the row itself, or on another model's answer to it.

Each says which it is (`reads_output`), checks itself against what the row or the answer can be, and holds or does not. A
row that is not what a condition looks for does not meet it: that it is wrong is told by the model that gets it.
"""

from abc import abstractmethod
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, JsonValue, model_validator
from pydantic_core import SchemaError, SchemaValidator, core_schema

from deployments.specs.signature import describe_input, describe_output
from training.errors import UserError
from training.schema import (
    BoxOutput,
    ClassOutput,
    InputSchema,
    NumberOutput,
    SeriesInput,
    SpanOutput,
    StrictModel,
    TableInput,
    TextInput,
)

MAX_PATTERN_CHARACTERS = 100_000
"""A pattern looks no further into a text."""


class _Condition(StrictModel):
    reads_output: ClassVar[bool]

    @abstractmethod
    def check(self, where: str, of: Any) -> None:
        """Raise Mistake where words (of a row) or an answer can never meet this."""

    @abstractmethod
    def holds(self, value: Any, of: Any) -> bool:
        """Whether a row, whose words are `of`, or a prediction, whose answer is `of`, meets this."""


class _Range(_Condition):
    at_least: float | None = Field(None, description="This or more.")
    below: float | None = Field(None, description="Less than this.")

    def _within(self, number: Any) -> bool:
        if type(number) not in (int, float):
            return False
        return (self.at_least is None or number >= self.at_least) and (self.below is None or number < self.below)

    def _bounded(self) -> bool:
        return self.at_least is not None or self.below is not None


class FeatureCondition(_Range):
    """A table's feature has one of these values, or lies in this range."""

    reads_output: ClassVar[bool] = False
    kind: Literal["feature"] = "feature"
    feature: str
    values: tuple[JsonValue, ...] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _one(self) -> "FeatureCondition":
        if (self.values is not None) == self._bounded():
            raise ValueError("give either `values` or a range (`at_least`, `below`)")
        return self

    def check(self, where: str, of: InputSchema) -> None:
        """See _Condition."""
        levels = of.features[_feature_index(where, of, self.feature)].categories if isinstance(of, TableInput) else None
        unknown = [value for value in self.values or () if levels and value not in levels]
        if unknown:
            raise UserError(
                f"{where}: {self.feature!r} is never {unknown[0]!r}; it is one of {', '.join(levels or ())}"
            )
        if levels and self.values is None:
            raise UserError(f"{where}: {self.feature!r} is one of {', '.join(levels)}, no number; give `values`")
        if not levels and any(type(value) not in (int, float) for value in self.values or ()):
            raise UserError(f"{where}: {self.feature!r} is a number; give numbers as its `values`")

    def holds(self, value: Any, of: TableInput) -> bool:
        """See _Condition."""
        found = _get_feature(value, of, self.feature)
        if self.values is None:
            return self._within(found)
        return not isinstance(found, bool) and found in self.values


class PresenceCondition(_Condition):
    """A table's feature has a value."""

    reads_output: ClassVar[bool] = False
    kind: Literal["present"] = "present"
    feature: str

    def check(self, where: str, of: InputSchema) -> None:
        """See _Condition."""
        _feature_index(where, of, self.feature)
        if isinstance(of, TableInput) and not of.allow_missing:
            raise UserError(f"{where}: no feature may be left out here, so {self.feature!r} is always present")

    def holds(self, value: Any, of: TableInput) -> bool:
        """See _Condition."""
        return _get_feature(value, of, self.feature) is not None


class LengthCondition(_Range):
    """How long a row is: characters of a text, steps of a series."""

    reads_output: ClassVar[bool] = False
    kind: Literal["length"] = "length"

    @model_validator(mode="after")
    def _some(self) -> "LengthCondition":
        if not self._bounded():
            raise ValueError("give `at_least`, `below` or both")
        return self

    def check(self, where: str, of: InputSchema) -> None:
        """See _Condition."""
        if not isinstance(of, TextInput | SeriesInput):
            raise UserError(f"{where}: `length` is of texts and series; the rows are {describe_input(of)}")

    def holds(self, value: Any, of: InputSchema) -> bool:
        """See _Condition."""
        content = _get_text(value) if isinstance(of, TextInput) else value
        return isinstance(content, str | list) and self._within(len(content))


class PatternCondition(_Condition):
    """A text holds what a regular expression describes.

    The expression is run by Rust's regex crate, as pydantic has it: without look-around or back references, and in time
    that grows with the text's length and never faster, so that no caller can make it last.
    """

    reads_output: ClassVar[bool] = False
    kind: Literal["matches"] = "matches"
    pattern: str = Field(min_length=1, max_length=500)

    @model_validator(mode="after")
    def _compiles(self) -> "PatternCondition":
        try:
            _matcher(self.pattern)
        except SchemaError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise ValueError(f"{self.pattern!r} is no pattern of Rust's regex crate: {lines[-1]}") from None
        return self

    def check(self, where: str, of: InputSchema) -> None:
        """See _Condition."""
        if not isinstance(of, TextInput):
            raise UserError(f"{where}: `matches` is of texts; the rows are {describe_input(of)}")

    def holds(self, value: Any, of: InputSchema) -> bool:
        """See _Condition."""
        text = _get_text(value)
        return isinstance(text, str) and _matcher(self.pattern).isinstance_python(text[:MAX_PATTERN_CHARACTERS])


class LabelCondition(_Condition):
    """The best label is one of these, and its score is this or more."""

    reads_output: ClassVar[bool] = True
    kind: Literal["label"] = "label"
    labels: tuple[str, ...] | None = Field(None, min_length=1, description="Any, where there are none.")
    score_at_least: float = Field(0.0, ge=0, le=1)

    def check(self, where: str, of: Any) -> None:
        """See _Condition."""
        if not isinstance(of, ClassOutput):
            raise UserError(f"{where}: `label` is of labels; `by` answers with {describe_output(of)}")
        _check_labels(where, self.labels or (), of.labels)

    def holds(self, value: Any, of: Any) -> bool:
        """See _Condition."""
        return (self.labels is None or value["label"] in self.labels) and value["score"] >= self.score_at_least


class NumberCondition(_Range):
    """The number lies in this range."""

    reads_output: ClassVar[bool] = True
    kind: Literal["number"] = "number"

    @model_validator(mode="after")
    def _some(self) -> "NumberCondition":
        if not self._bounded():
            raise ValueError("give `at_least`, `below` or both")
        return self

    def check(self, where: str, of: Any) -> None:
        """See _Condition."""
        if not isinstance(of, NumberOutput):
            raise UserError(f"{where}: `number` is of numbers; `by` answers with {describe_output(of)}")

    def holds(self, value: Any, of: Any) -> bool:
        """See _Condition."""
        return self._within(value[of.name])


class CountCondition(_Condition):
    """So many boxes or spans were found."""

    reads_output: ClassVar[bool] = True
    kind: Literal["count"] = "count"
    labels: tuple[str, ...] | None = Field(None, min_length=1, description="Any, where there are none.")
    at_least: int = Field(1, ge=1)

    def check(self, where: str, of: Any) -> None:
        """See _Condition."""
        if not isinstance(of, BoxOutput | SpanOutput):
            raise UserError(f"{where}: `found` is of boxes and spans; `by` answers with {describe_output(of)}")
        _check_labels(where, self.labels or (), of.labels if isinstance(of, BoxOutput) else of.labels)

    def holds(self, value: Any, of: Any) -> bool:
        """See _Condition."""
        items = value[of.kind]
        return sum(self.labels is None or item["label"] in self.labels for item in items) >= self.at_least


Condition = Annotated[
    FeatureCondition
    | PresenceCondition
    | LengthCondition
    | PatternCondition
    | LabelCondition
    | NumberCondition
    | CountCondition,
    Field(discriminator="kind"),
]


@lru_cache(maxsize=256)
def _matcher(pattern: str) -> SchemaValidator:
    return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex", strict=True))


def _feature_index(where: str, of: InputSchema, feature: str) -> int:
    if not isinstance(of, TableInput):
        raise UserError(f"{where}: {feature!r} is a table's feature; the rows are {describe_input(of)}")
    if feature not in of.feature_names:
        raise UserError(f"{where}: no feature {feature!r}; the rows are {describe_input(of)}")
    return of.feature_names.index(feature)


def _get_feature(row: Any, of: TableInput, feature: str) -> Any:
    """A feature of a row that was sent by name or in order; None where it has none."""
    if isinstance(row, dict):
        return row.get(feature)
    place = of.feature_names.index(feature)
    return row[place] if isinstance(row, list) and place < len(row) else None


def _get_text(row: Any) -> Any:
    return row.get("text") if isinstance(row, dict) else row


def _check_labels(where: str, asked: tuple[str, ...], labels: tuple[str, ...]) -> None:
    unknown = [label for label in asked if label not in labels]
    if unknown:
        raise UserError(f"{where}: no label {unknown[0]!r}; there are {', '.join(labels)}")
