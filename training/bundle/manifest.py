"""Manifest: bundle.json, which describes a bundle's model, tensors, data and files.

Train walk: save.py -> [manifest.py] -> training.schema
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, JsonValue

from training.bundle.datatypes import Datatype
from training.recipe.spec import TOLERANCE, TaskName
from training.schema import InputSchema, OutputSchema, StrictModel

FORMAT: Literal[3] = 3
PROGRAM_FILE, MANIFEST_FILE, EXAMPLE_FILE, CARD_FILE = "model.pt2", "bundle.json", "example.json", "README.md"
TOKENIZER_FILE, DECODER_FILE = "tokenizer.json", "decoder.pt2"
PROVENANCE_FILE = "provenance.intoto.jsonl"
"""Signed statements about a bundle's digest, beside its files and not among them: what is signed cannot hold it."""


class TensorSpec(StrictModel):
    """One input or output tensor; the first dimension is the batch, and -1 is a dynamic dimension."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...] = Field(min_length=1)


class DatasetCard(StrictModel):
    """The data that the model was trained on."""

    source: str
    license: str
    fingerprint: str = Field(description="sha256 over every row; see training.data.dataset.Dataset.fingerprint.")
    rows: dict[str, int] = Field(description="Rows of each split: train, validation, test.")
    split: str = Field("", description="How the rows were split.")
    dropped_rows: dict[str, int] = Field({}, description="Rows dropped before the split, by reason.")
    leaked_rows: int | None = Field(None, description="Test rows whose input is in the training split too.")


class Interval(StrictModel):
    """A 95% bootstrap interval over the held-out rows."""

    low: float
    high: float


class Calibration(StrictModel):
    """Expected calibration error on the held-out rows, without and with the temperature of the output schema."""

    error_before: float
    error_after: float


class EnergyCard(StrictModel):
    """Energy used by the run's machines and its emissions; kg_co2 is None where no country was set."""

    kwh: float
    kg_co2: float | None
    country: str
    method: str


class ModelInfo(StrictModel):
    """What a model's author states about it."""

    renamed_keys: ClassVar[Mapping[str, str]] = {
        "words": "input_schema",
        "answer": "output_schema",
        "by_class": "per_class_metrics",
        "headline": "primary_metric",
        "use": "intended_use",
    }

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="Its name in the registry and in URLs.")
    task: TaskName
    input_schema: InputSchema = Field(description="One row of a request, and its preprocessing.")
    output_schema: OutputSchema = Field(description="One row of a response, and its postprocessing.")
    summary: str = Field("", description="One sentence for the catalog and the model card.")
    intended_use: str = Field("", description="What it is for, and what it is not for.")
    metrics: dict[str, float] = Field({}, description="Metrics on the held-out rows.")
    primary_metric: str = Field("", description="The metric that is listed first.")
    intervals: dict[str, Interval] = Field({}, description="95% intervals by metric; today of the primary metric.")
    per_class_metrics: dict[str, dict[str, float]] = Field({}, description="Metrics of each label.")
    calibration: Calibration | None = None
    dataset: DatasetCard | None = None
    energy: EnergyCard | None = Field(None, description="None: not measured.")
    recipe: dict[str, JsonValue] | None = None
    training: dict[str, JsonValue] = Field({}, description="Facts of the training run, for the model card.")
    git_commit: str | None = Field(None, description="Git commit of the net's code.")
    tolerance: float = Field(
        TOLERANCE,
        gt=0,
        description="Maximum difference between a deployment that is compiled or in another precision and this net in "
        "fp32, on the bundle's example, as a share of the largest output; a larger one is refused.",
    )


class Manifest(ModelInfo):
    """bundle.json."""

    format: Literal[3] = FORMAT
    created: datetime
    inputs: tuple[TensorSpec, ...] = Field(min_length=1, max_length=1)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1)
    versions: dict[str, str]
    files: dict[str, str] = Field(description="sha256 of every other file of the bundle, by name.")
    digest: str = Field("", description="sha256 of this manifest without this key, as canonical JSON.")

    def computed_digest(self) -> str:
        """Compute the digest of all keys but `digest`; it covers every file through its checksum."""
        # A manifest without a tolerance, which has a default, was digested without it.
        unset = {"tolerance"} - self.model_fields_set
        values = self.model_dump(mode="json", exclude={"digest", *unset})
        content = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()


def sha256(file: Path) -> str:
    """The sha256 of a file's content, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
