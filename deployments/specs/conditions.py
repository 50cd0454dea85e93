"""Conditions of a branch: on a row, or on the output of the model that the branch asks about it.

Each declares which of the two it reads (`reads_output`), checks itself against the schema of what it reads, and holds
or does not hold for a value. A malformed row meets no condition: the model that gets it reports the error.
"""

from abc import abstractmethod
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, JsonValue, model_validator
from pydantic_core import SchemaError, SchemaValidator, core_schema

from deployments.specs.signature import describe_input, describe_output
from training.data.values import is_missing_feature, match_category
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
"""A pattern is searched in the first so many characters of a text."""


class _Condition(StrictModel):
    reads_output: ClassVar[bool]

    @abstractmethod
    def check(self, path: str, schema: Any) -> None:
        """Check that the condition can hold.

        Args:
            path: of the branch's case, for the message.
            schema: of the row, or where `reads_output` is set, of the router's output.

        Raises:
            UserError: no value of this schema can meet the condition.
        """

    @abstractmethod
    def holds(self, value: Any, schema: Any) -> bool:
        """Whether a row or a prediction of this schema meets the condition."""


class _RangeCondition(_Condition):
    at_least: float | None = Field(None, description="Lower bound, inclusive.")
    below: float | None = Field(None, description="Upper bound, exclusive.")

    def _contains(self, number: Any) -> bool:
        if type(number) not in (int, float):
            return False
        return (self.at_least is None or number >= self.at_least) and (self.below is None or number < self.below)

    def _has_bound(self) -> bool:
        return self.at_least is not None or self.below is not None


class FeatureCondition(_RangeCondition):
    """A table's feature has one of these values, or lies in this range."""

    reads_output: ClassVar[bool] = False
    kind: Literal["feature"] = "feature"
    feature: str
    values: tuple[JsonValue, ...] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _check_values_or_range(self) -> "FeatureCondition":
        if (self.values is not None) == self._has_bound():
            raise ValueError("give either `values` or a range (`at_least`, `below`)")
        return self

    def check(self, path: str, schema: InputSchema) -> None:
        """See _Condition."""
        table = _require_feature(path, schema, self.feature)
        categories = _get_categories(table, self.feature)
        unknown = [value for value in self.values or () if categories and match_category(value, categories) is None]
        if unknown:
            raise UserError(
                f"{path}: {self.feature!r} is never {unknown[0]!r}; it is one of {', '.join(categories or ())}"
            )
        if categories and self.values is None:
            raise UserError(
                f"{path}: {self.feature!r} is one of {', '.join(categories)} and not a number; give `values`"
            )
        if not categories and any(type(value) not in (int, float) for value in self.values or ()):
            raise UserError(f"{path}: {self.feature!r} is a number; give numbers as its `values`")

    def holds(self, value: Any, schema: TableInput) -> bool:
        """See _Condition."""
        feature_value = _get_feature(value, schema, self.feature)
        if self.values is None:
            return self._contains(feature_value)
        categories = _get_categories(schema, self.feature)
        if categories:
            category = match_category(feature_value, categories)
            return category is not None and any(match_category(each, categories) == category for each in self.values)
        # True == 1 in Python, but not in JSON.
        return not isinstance(feature_value, bool) and feature_value in self.values


class PresenceCondition(_Condition):
    """A table's feature has a value."""

    reads_output: ClassVar[bool] = False
    kind: Literal["present"] = "present"
    feature: str

    def check(self, path: str, schema: InputSchema) -> None:
        """See _Condition."""
        if not _require_feature(path, schema, self.feature).allow_missing:
            raise UserError(f"{path}: {self.feature!r} is always present; the model does not allow missing features")

    def holds(self, value: Any, schema: TableInput) -> bool:
        """See _Condition."""
        return not is_missing_feature(_get_feature(value, schema, self.feature))


class LengthCondition(_RangeCondition):
    """The length of a row lies in this range: characters of a text, time steps of a series."""

    reads_output: ClassVar[bool] = False
    kind: Literal["length"] = "length"

    @model_validator(mode="after")
    def _check_range(self) -> "LengthCondition":
        if not self._has_bound():
            raise ValueError("give `at_least`, `below` or both")
        return self

    def check(self, path: str, schema: InputSchema) -> None:
        """See _Condition."""
        if not isinstance(schema, TextInput | SeriesInput):
            raise UserError(f"{path}: `length` is for texts and series; the rows are {describe_input(schema)}")

    def holds(self, value: Any, schema: InputSchema) -> bool:
        """See _Condition."""
        content = _get_text(value) if isinstance(schema, TextInput) else value
        return isinstance(content, str | list) and self._contains(len(content))


class PatternCondition(_Condition):
    """A text matches a regular expression somewhere.

    The expression is run by Rust's regex crate, through pydantic: it has no look-around or back references, and takes
    time linear in the text's length, so that no caller can stall the others.
    """

    reads_output: ClassVar[bool] = False
    kind: Literal["pattern"] = "pattern"
    pattern: str = Field(min_length=1, max_length=500)

    @model_validator(mode="after")
    def _check_syntax(self) -> "PatternCondition":
        try:
            _compile_pattern(self.pattern)
        except SchemaError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise ValueError(f"{self.pattern!r} is no pattern of Rust's regex crate: {lines[-1]}") from None
        return self

    def check(self, path: str, schema: InputSchema) -> None:
        """See _Condition."""
        if not isinstance(schema, TextInput):
            raise UserError(f"{path}: `pattern` is for texts; the rows are {describe_input(schema)}")

    def holds(self, value: Any, schema: InputSchema) -> bool:
        """See _Condition."""
        text = _get_text(value)
        return isinstance(text, str) and _compile_pattern(self.pattern).isinstance_python(text[:MAX_PATTERN_CHARACTERS])


class LabelCondition(_Condition):
    """The best label is one of these, with at least this score."""

    reads_output: ClassVar[bool] = True
    kind: Literal["label"] = "label"
    labels: tuple[str, ...] | None = Field(None, min_length=1, description="None: any label.")
    score_at_least: float = Field(0.0, ge=0, le=1)

    def check(self, path: str, schema: Any) -> None:
        """See _Condition."""
        if not isinstance(schema, ClassOutput):
            raise UserError(f"{path}: `label` is for labels; the router returns {describe_output(schema)}")
        _check_labels(path, self.labels or (), schema.labels)

    def holds(self, value: Any, schema: Any) -> bool:
        """See _Condition."""
        return (self.labels is None or value["label"] in self.labels) and value["score"] >= self.score_at_least


class NumberCondition(_RangeCondition):
    """The number lies in this range."""

    reads_output: ClassVar[bool] = True
    kind: Literal["number"] = "number"

    @model_validator(mode="after")
    def _check_range(self) -> "NumberCondition":
        if not self._has_bound():
            raise ValueError("give `at_least`, `below` or both")
        return self

    def check(self, path: str, schema: Any) -> None:
        """See _Condition."""
        if not isinstance(schema, NumberOutput):
            raise UserError(f"{path}: `number` is for numbers; the router returns {describe_output(schema)}")

    def holds(self, value: Any, schema: Any) -> bool:
        """See _Condition."""
        return self._contains(value[schema.name])


class CountCondition(_Condition):
    """There are at least so many boxes or spans."""

    reads_output: ClassVar[bool] = True
    kind: Literal["count"] = "count"
    labels: tuple[str, ...] | None = Field(None, min_length=1, description="None: any label.")
    at_least: int = Field(1, ge=1)

    def check(self, path: str, schema: Any) -> None:
        """See _Condition."""
        if not isinstance(schema, BoxOutput | SpanOutput):
            raise UserError(f"{path}: `count` is for boxes and spans; the router returns {describe_output(schema)}")
        _check_labels(path, self.labels or (), schema.labels)

    def holds(self, value: Any, schema: Any) -> bool:
        """See _Condition."""
        items = value[schema.kind]
        return sum(self.labels is None or item["label"] in self.labels for item in items) >= self.at_least


_RENAMED_KINDS = {"matches": "pattern", "found": "count"}


def _refuse_renamed_kind(value: object) -> object:
    kind = value.get("kind") if isinstance(value, dict) else None
    if isinstance(kind, str) and kind in _RENAMED_KINDS:
        raise ValueError(f"kind {kind!r} is called {_RENAMED_KINDS[kind]!r} now")
    return value


Condition = Annotated[
    FeatureCondition
    | PresenceCondition
    | LengthCondition
    | PatternCondition
    | LabelCondition
    | NumberCondition
    | CountCondition,
    Field(discriminator="kind"),
    BeforeValidator(_refuse_renamed_kind),
]


@lru_cache(maxsize=256)
def _compile_pattern(pattern: str) -> SchemaValidator:
    return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex", strict=True))


def _require_feature(path: str, schema: InputSchema, feature: str) -> TableInput:
    if not isinstance(schema, TableInput):
        raise UserError(f"{path}: {feature!r} is a table's feature; the rows are {describe_input(schema)}")
    if feature not in schema.feature_names:
        raise UserError(f"{path}: no feature {feature!r}; the rows are {describe_input(schema)}")
    return schema


def _get_feature(row: Any, schema: TableInput, feature: str) -> Any:
    """Get a feature of a row that was sent as a record or as a list; None where it is missing."""
    if isinstance(row, dict):
        return row.get(feature)
    index = schema.feature_names.index(feature)
    return row[index] if isinstance(row, list) and index < len(row) else None


def _get_categories(schema: TableInput, feature: str) -> tuple[str, ...] | None:
    """A feature's categories; None for a number."""
    return schema.features[schema.feature_names.index(feature)].categories


def _get_text(row: Any) -> Any:
    return row.get("text") if isinstance(row, dict) else row


def _check_labels(path: str, labels: tuple[str, ...], model_labels: tuple[str, ...]) -> None:
    unknown = [label for label in labels if label not in model_labels]
    if unknown:
        raise UserError(f"{path}: no label {unknown[0]!r}; there are {', '.join(model_labels)}")
