"""bundle.json: what a bundle says of its model, its tensors, its data, and of its own files."""

import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import Field, JsonValue

from training.bundle.datatypes import Datatype
from training.recipe.spec import TOLERANCE, TaskName
from training.schema import InputSchema, OutputSchema, StrictModel

PROGRAM_FILE, MANIFEST_FILE, EXAMPLE_FILE, CARD_FILE = "model.pt2", "bundle.json", "example.json", "README.md"
TOKENIZER_FILE, DECODER_FILE = "tokenizer.json", "decoder.pt2"


class TensorSpec(StrictModel):
    """One tensor that goes in or comes out; -1 in a shape is free, and the first is the batch."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...] = Field(min_length=1)


class DatasetCard(StrictModel):
    """What the model was trained on."""

    source: str
    license: str
    fingerprint: str = Field(description="sha256 over every row; see training.data.dataset.Dataset.fingerprint.")
    rows: dict[str, int] = Field(description="Rows in each part: train, validation, test.")
    split: str = Field("", description="How the rows were divided.")
    dropped_rows: dict[str, int] = Field({}, description="Rows dropped before that, by reason.")
    leaked_rows: int | None = Field(None, description="Test rows whose input stands in the training part as well.")


class Interval(StrictModel):
    """A 95% bootstrap interval over the held-out rows."""

    low: float
    high: float


class Calibration(StrictModel):
    """Expected calibration error on the held-out rows, without and with the answer's temperature."""

    error_before: float
    error_after: float


class EnergyCard(StrictModel):
    """What the run's machines drew, and what that emitted; kg_co2 is None where no country was set."""

    kwh: float
    kg_co2: float | None
    country: str
    method: str


class ModelInfo(StrictModel):
    """What the maker of a model says of it."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="Its name in the registry and in URLs.")
    task: TaskName
    input_schema: InputSchema = Field(description="How one row is put in words: the pre-processing.")
    output_schema: OutputSchema = Field(description="What the output means: the post-processing.")
    summary: str = Field("", description="One sentence for the catalogue.")
    intended_use: str = Field("", description="What it is for, and what it is not for.")
    metrics: dict[str, float] = Field({}, description="Scores on held-out rows.")
    primary_metric: str = Field("", description="The metric that stands first.")
    intervals: dict[str, Interval] = Field({}, description="Of the headline, over the held-out rows.")
    per_class_metrics: dict[str, dict[str, float]] = Field({}, description="Scores of each label by itself.")
    calibration: Calibration | None = None
    dataset: DatasetCard | None = None
    energy: EnergyCard | None = Field(None, description="None: not measured.")
    recipe: dict[str, JsonValue] | None = None
    training: dict[str, JsonValue] = Field({}, description="How the run went.")
    git_commit: str | None = Field(None, description="The commit of the recipe's code.")
    tolerance: float = Field(
        TOLERANCE,
        gt=0,
        description="How far a deployment in another precision, or compiled, may be from this net in fp32, on the "
        "bundle's own example: a share of the largest output. Beyond it is refused.",
    )


class Manifest(ModelInfo):
    """bundle.json."""

    format: Literal[2] = 2
    created: datetime
    inputs: tuple[TensorSpec, ...] = Field(min_length=1, max_length=1)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1)
    versions: dict[str, str]
    files: dict[str, str] = Field(description="sha256 of every other file of the folder.")
    digest: str = Field("", description="sha256 of this manifest without this line, as canonical JSON.")

    def computed_digest(self) -> str:
        """Digest of everything but the digest: it covers all files through their checksums."""
        # Bundles from before there was a tolerance were sealed without it.
        later = {"tolerance"} - self.model_fields_set
        told = self.model_dump(mode="json", exclude={"digest", *later})
        content = json.dumps(told, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()


def sha256(file: Path) -> str:
    """Digest a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
