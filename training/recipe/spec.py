"""Recipe: what is trained, as one frozen Pydantic class that refuses unknown keys.

Train walk: load.py -> [spec.py] -> training.run.driver
A net, a data set, a loss or an augmentation is named by its Python path, so that a recipe is plain data: it is stored
in the bundle and sent to the workers as JSON. Knows nothing of how it is run: that is `training.run.options`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    JsonValue,
    Tag,
    field_validator,
    model_validator,
)

from training.schema import StrictModel


def _to_python_path(value: object) -> object:
    """Convert a class or function to its Python path."""
    return f"{value.__module__}:{value.__qualname__}" if hasattr(value, "__qualname__") else value


PythonPath = Annotated[str, BeforeValidator(_to_python_path), Field(pattern=r"^[\w.]+:[\w.]+$")]
"""`package.module:name`; a class or function given in Python is converted to its path."""

# Rounding to bf16 moves a number by up to 2^-9 of itself, 0.2%, which adds up to 0.1 to 1.5% at the outputs of the
# zoo's nets: an output that moves by more than 5% is not rounding.
TOLERANCE = 0.05

TaskName = Literal[
    "tabular-classification",
    "tabular-regression",
    "image-classification",
    "text-classification",
    "audio-classification",
    "time-series-forecasting",
    "token-classification",
    "text-generation",
    "image-generation",
    "object-detection",
]
"""Tasks, by their names on the Hugging Face Hub."""

PRIMARY_METRICS: Mapping[str, str] = {
    "tabular-classification": "accuracy",
    "tabular-regression": "r2",
    "image-classification": "accuracy",
    "text-classification": "accuracy",
    "audio-classification": "accuracy",
    "time-series-forecasting": "mae",
    "token-classification": "span_f1",
    "text-generation": "bits_per_character",
    "image-generation": "negative_elbo",
    "object-detection": "map50",
}
"""The metric of each task that selects the best epoch, as its class in training.tasks has it; here without torch."""

# torch.optim's classes in torch 2.13, listed here so that a recipe is read without importing torch.
OPTIMIZERS = (
    "ASGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "LBFGS",
    "Muon",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SGD",
    "SparseAdam",
)


class Data(StrictModel):
    """Rows in memory: the function that returns them, and how they are split."""

    source: PythonPath = Field(description="A function that returns a training.data.dataset.Dataset.")
    args: dict[str, JsonValue] = Field({}, description="Keyword arguments of the source.")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="Share of all rows, held out for the final score.")
    validation_fraction: float = Field(
        0.1, gt=0, lt=1, description="Share of the other rows, which selects the best epoch."
    )
    seed: int = Field(42, ge=0, description="Seed of the stratified split.")


def _resolve_path(path: object) -> object:
    """Make a path absolute, since a run may be resumed from another working directory; a URI is kept as it is."""
    if isinstance(path, Path) or (isinstance(path, str) and path and "://" not in path):
        return str(Path(path).expanduser().resolve())
    return path


class Files(StrictModel):
    """Rows in files, more than fit in memory: every epoch streams them from their storage to all workers.

    A hash of a row's content decides its split, so that equal rows are in the same one, unless a column says it;
    duplicates are not dropped.
    Rows are validated once, before training, and an error names file, row and column.
    """

    renamed_keys: ClassVar[Mapping[str, str]] = {
        "licence": "license",
        "shuffle_rows": "shuffle_buffer_rows",
        "shuffle_bytes": "shuffle_buffer_bytes",
    }

    path: Annotated[str, BeforeValidator(_resolve_path)] = Field(
        min_length=1,
        description="A file, a folder (read recursively), or the URI of either in an object store. A relative path is "
        "taken from the folder in which the command is called.",
    )
    format: Literal["parquet", "csv", "jsonl", "images"] = Field(
        description="csv: with a header; jsonl: one object per line; images: one folder per class."
    )
    target: str | None = Field(
        None, description="The column that the net predicts; images take their folder's name instead."
    )
    features: tuple[str, ...] = Field(
        (), description="Columns of a table; empty: all others. A text column becomes categories."
    )
    exclude: tuple[str, ...] = Field((), description="Columns of a table that are no features, such as an id.")
    text: str | None = Field(None, description="The text column of a text task.")
    split_column: str | None = Field(
        None,
        description="The column that says each row's split: train, validation or test; without it a hash of the row's "
        "content decides.",
    )
    height: int | None = Field(None, ge=1, le=4096, description="Images are resized to this height, in pixels.")
    width: int | None = Field(None, ge=1, le=4096, description="Images are resized to this width, in pixels.")
    mode: Literal["L", "RGB"] = Field("RGB", description="Images in grayscale (L) or in color.")
    source: str = Field("", description="Origin of the rows, for the model card; empty: the path.")
    license: str = Field("not stated", description="License of the rows, for the model card.")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="Share of all rows, held out for the final score.")
    validation_fraction: float = Field(
        0.1, gt=0, lt=1, description="Share of the other rows, which selects the best epoch."
    )
    seed: int = Field(42, ge=0, description="Seed of the split.")
    sample_rows: int = Field(
        50_000,
        ge=2,
        description="Maximum rows of each split kept in memory: metrics are computed on them, and preprocessing is "
        "fitted on those of the training split.",
    )
    sample_bytes: int = Field(2**27, ge=2**10, description="Maximum bytes of each split kept in memory.")
    shuffle_buffer_rows: int = Field(10_000, ge=1, description="Rows in the shuffle buffer of each worker.")
    shuffle_buffer_bytes: int = Field(2**26, ge=1, description="Maximum bytes of the shuffle buffer of each worker.")

    @model_validator(mode="after")
    def _validate_columns(self) -> Files:
        if self.format == "images":
            if not (self.height and self.width):
                raise ValueError("format=images needs height and width: a net takes one size; set both")
            if self.target or self.features or self.exclude or self.text or self.split_column:
                raise ValueError("images have no columns; leave out target, features, exclude, text and split_column")
        elif not self.target:
            raise ValueError(f"format={self.format} needs target; set it to the column that the net predicts")
        elif self.text and self.features:
            raise ValueError(
                "text and features exclude each other: a row is a text or a list of features; leave one of them out"
            )
        elif self.exclude and (self.text or self.features):
            raise ValueError("exclude leaves columns out of all others; with text or features leave exclude out")
        for key in ("target", "split_column"):
            if getattr(self, key) and getattr(self, key) in (self.text, *self.features):
                raise ValueError(f"{key} {getattr(self, key)!r} is also an input; remove it from text or features")
        if self.target and self.target == self.split_column:
            raise ValueError(f"target and split_column are both {self.target!r}; they are different columns")
        return self


def _tag_data(value: object) -> str:
    """Tell Files from Data by its `path`, so that an error names the keys of one of them only."""
    return "files" if isinstance(value, Files) or (isinstance(value, dict) and "path" in value) else "rows"


class Cleaning(StrictModel):
    """How rows are cleaned before the split, so that no row is in two splits."""

    duplicates: Literal["drop", "keep"] = Field(
        "drop", description="drop: equal rows are kept once, and equal inputs with different targets not at all."
    )
    missing: Literal["refuse", "drop", "mean"] = Field(
        "refuse",
        description="A missing number (NaN) ends the run, drops its row, or is replaced by the mean of the training "
        "rows; only `mean` lets a caller leave a feature out (null).",
    )


class TokenizerConfig(StrictModel):
    """The tokenizer, which is fitted on the training rows and stored in the bundle as tokenizer.json."""

    renamed_keys: ClassVar[Mapping[str, str]] = {"vocabulary": "vocab_size", "min_count": "min_frequency"}

    kind: Literal["characters", "words", "bpe"] = Field(
        "characters", description="What a token is: a character, a word, or a part of one (byte-pair encoding)."
    )
    vocab_size: int = Field(8192, ge=4, description="Maximum number of tokens, padding and unknown included.")
    min_frequency: int = Field(
        1, ge=1, description="Rarer characters or words become the unknown token; not used by BPE."
    )
    lowercase: bool = Field(False, description="Lowercase first; not for text generation.")
    max_tokens: int = Field(512, ge=2, description="A longer text is truncated; a served span model refuses it.")


class Net(StrictModel):
    """The net to train."""

    source: PythonPath = Field(description="A class or function that returns a torch.nn.Module.")
    args: dict[str, JsonValue] = Field({}, description="Keyword arguments of the source.")


class Loss(StrictModel):
    """The loss function: loss(output, targets, **args) returns the mean over rows."""

    source: PythonPath = Field(description="The function, as `module:name`.")
    args: dict[str, JsonValue] = Field({}, description="Keyword arguments of the source.")


class Augmentation(StrictModel):
    """Augments training batches: augmentation(x_B, targets_B, generator, **args) returns both; never held-out rows."""

    source: PythonPath = Field(description="The function, as `module:name`.")
    args: dict[str, JsonValue] = Field({}, description="Keyword arguments of the source.")


class Optimizer(StrictModel):
    """An optimizer of torch.optim."""

    name: str = Field("AdamW", description="Its class name in torch.optim.")
    lr: float = Field(1e-3, gt=0, description="Learning rate after warmup.")
    args: dict[str, JsonValue] = Field({}, description="Other keyword arguments of the class.")

    @field_validator("name")
    @classmethod
    def _validate_name(cls, name: str) -> str:
        if name not in OPTIMIZERS:
            raise ValueError(f"torch.optim has no {name!r}; it has {', '.join(OPTIMIZERS)}")
        return name


class LrSchedule(StrictModel):
    """The learning rate over the run."""

    name: Literal["constant", "cosine"] = Field(
        "cosine", description="After the warmup: constant, or a cosine to 0 at the last step."
    )
    warmup: float = Field(
        0.0, ge=0, lt=1, description="Share of all steps over which the rate rises from 0 to `optimizer.lr`."
    )


class StopRule(StrictModel):
    """When training ends: at the first limit it reaches."""

    epochs: int = Field(10, ge=1, description="Maximum passes over the training rows.")
    steps: int | None = Field(
        None, ge=1, description="Maximum optimizer steps; the learning-rate schedule ends there too."
    )
    seconds: float | None = Field(None, gt=0, description="Maximum training time, without startup and publication.")
    loss: float | None = Field(None, description="Stop at a mean training loss of an epoch this low.")
    score: float | None = Field(
        None, description="Stop at a validation score this good, by the primary metric of the task."
    )
    patience: int | None = Field(None, ge=1, description="Stop after so many epochs without a better validation score.")


class CheckpointPolicy(StrictModel):
    """When checkpoints are saved, from which a run resumes after a failure, and how many are kept."""

    renamed_keys: ClassVar[Mapping[str, str]] = {"keep": "num_to_keep", "every_s": "interval_s"}

    num_to_keep: int = Field(
        2, ge=1, description="Number of checkpoints kept, best validation score first; the last one is always kept."
    )
    interval_s: float = Field(
        60.0, gt=0, description="Time between checkpoints within an epoch; each epoch also ends with one."
    )


class Recipe(StrictModel):
    """Everything that defines one training run."""

    renamed_keys: ClassVar[Mapping[str, str]] = {
        "use": "intended_use",
        "tokens": "tokenizer",
        "standardise": "standardize",
        "optimiser": "optimizer",
        "augment": "augmentation",
        "clip": "clip_grad_norm",
        "batch_rows": "batch_size",
        "accumulate": "gradient_accumulation",
    }

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="The model's name in the registry and in URLs.")
    task: TaskName = Field(description="What the model does; it decides loss, metrics and the form of requests.")
    summary: str = Field("", description="One sentence for the catalog and the model card.")
    intended_use: str = Field("", description="What the model is for and what it is not for, for the model card.")
    data: Annotated[Annotated[Data, Tag("rows")] | Annotated[Files, Tag("files")], Discriminator(_tag_data)]
    clean: Cleaning = Cleaning()
    tokenizer: TokenizerConfig | None = Field(None, description="Required by text tasks.")
    net: Net
    loss: Loss | None = Field(None, description="None: the usual loss of the task.")
    standardize: bool = Field(
        True, description="Center and scale numeric inputs by the training rows, in the first layer of the net."
    )
    optimizer: Optimizer = Optimizer()
    schedule: LrSchedule = LrSchedule()
    stop: StopRule = StopRule()
    checkpoints: CheckpointPolicy = CheckpointPolicy()
    augmentation: Augmentation | None = None
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="Publish an exponential moving average of the weights with this decay."
    )
    clip_grad_norm: float | None = Field(
        None, gt=0, description="Maximum norm of the gradients, by torch.nn.utils.clip_grad_norm_."
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16: torch.autocast around forward and loss.")
    compile: bool = Field(False, description="torch.compile the net; needs a C++ compiler on every worker.")
    tolerance: float = Field(
        TOLERANCE,
        gt=0,
        description="Maximum difference between a deployment that is compiled or in another precision and the trained "
        "net, as a share of its largest output.",
    )
    parallel: Literal["ddp", "fsdp"] = Field(
        "ddp", description="fsdp: weights, gradients and optimizer state are sharded over the workers (FSDP2)."
    )
    batch_size: int = Field(64, ge=1, description="Rows per optimizer step, over all workers.")
    gradient_accumulation: int = Field(1, ge=1, description="Forward passes per optimizer step on each worker.")
    workers: int = Field(2, ge=1, description="Data-parallel workers, unless `--workers` is given.")
    seed: int = Field(0, ge=0, description="Seed of weights, row order, dropout and augmentation.")

    @property
    def is_streamed(self) -> bool:
        """Whether its rows are in files, which are streamed to the workers."""
        return isinstance(self.data, Files)

    @model_validator(mode="after")
    def _validate_combination(self) -> Recipe:
        if self.batch_size < self.workers * self.gradient_accumulation:
            raise ValueError(
                f"batch_size={self.batch_size} is less than workers={self.workers} times "
                f"gradient_accumulation={self.gradient_accumulation}; every forward pass needs a row"
            )
        if self.parallel == "fsdp" and (self.ema_decay or self.compile):
            raise ValueError("parallel=fsdp supports neither ema_decay nor compile; leave them out")
        is_text_task = self.task in ("text-classification", "token-classification", "text-generation")
        if is_text_task != (self.tokenizer is not None):
            raise ValueError(f"task {self.task} {'needs `tokenizer`' if is_text_task else 'takes no `tokenizer`'}")
        if isinstance(self.data, Files):
            self._validate_task_of_files(self.data)
        return self

    def _validate_task_of_files(self, files: Files) -> None:
        supported: tuple[TaskName, ...] = ("tabular-classification", "tabular-regression")
        if files.text:
            supported = ("text-classification",)
        elif files.format == "images":
            supported = ("image-classification",)
        if self.task not in supported:
            raise ValueError(f"task {self.task} cannot train on these files; they are for {' or '.join(supported)}")
