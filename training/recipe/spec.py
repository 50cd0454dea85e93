"""Recipe: what is trained, said once in a closed, frozen model.

Train walk: cluster.cli.app train -> [recipe.py] -> run.py -> data.py -> loop.py -> bundle.py -> registry.py
Says what; `loop` says how. A net, a data set, a loss or an augmentation is named by its Python path, so that a recipe
is plain data: it is stored in the bundle and travels to the workers as JSON.
"""

from pathlib import Path
from typing import Annotated, Literal

import torch
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
    """Take a class or function where a Python path is wanted."""
    return f"{value.__module__}:{value.__qualname__}" if hasattr(value, "__qualname__") else value


PythonPath = Annotated[str, BeforeValidator(_to_python_path), Field(pattern=r"^[\w.]+:[\w.]+$")]
"""`package.module:name`; a class or function given in Python is written down as its path."""

# Rounding to bf16 moves a number by up to 2^-9 of itself, 0.2%, and the nets of the recipes gather 0.1 to 1.5% of that
# on the way through: what moves an answer by more than 5% is no rounding.
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
"""Tasks, as the Hugging Face hub names them."""


class Data(StrictModel):
    """Where rows come from and how they are divided."""

    source: PythonPath = Field(description="A function that returns a training.data.dataset.Dataset.")
    args: dict[str, JsonValue] = Field({}, description="Keyword arguments of the source.")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="Share of the rows held out for the final score.")
    validation_fraction: float = Field(0.1, gt=0, lt=1, description="Share of the rest that chooses the epoch to keep.")
    seed: int = Field(42, ge=0, description="Seed of the stratified split.")


def _resolve_path(path: object) -> object:
    """Make a path absolute, since a run may go on from another folder than it began in; a URI stays as it is."""
    if isinstance(path, Path) or (isinstance(path, str) and path and "://" not in path):
        return str(Path(path).expanduser().resolve())
    return path


class Files(StrictModel):
    """Rows in files, more than fit in memory: every epoch streams them from where they are, to all workers.

    A hash of a row's content decides its part, so that equal rows stand in the same one; none is dropped for being
    there twice. Rows are checked once, before training, and an error names file, row and column.
    """

    path: Annotated[str, BeforeValidator(_resolve_path)] = Field(
        min_length=1, description="A file, a folder with all that is below it, or the URI of either in an object store."
    )
    format: Literal["parquet", "csv", "jsonl", "images"] = Field(
        description="csv: with a header; jsonl: an object a line; images: a folder for each class."
    )
    target: str | None = Field(None, description="The column that is learnt; for images the folder's name is.")
    features: tuple[str, ...] = Field(
        (), description="Columns of a table; empty: all but the target. A column of texts becomes a category."
    )
    text: str | None = Field(None, description="For text: its column.")
    height: int | None = Field(None, ge=1, le=4096, description="Pictures are resized to this.")
    width: int | None = Field(None, ge=1, le=4096, description="And this.")
    mode: Literal["L", "RGB"] = Field("RGB", description="Pictures in grey, or in colour.")
    source: str = Field("", description="Where the rows are from, for the model card; empty: the path.")
    license: str = Field("not stated", description="Under what terms, for the model card.")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="Share of the rows held out for the final score.")
    validation_fraction: float = Field(0.1, gt=0, lt=1, description="Share of the rest that chooses the epoch to keep.")
    seed: int = Field(42, ge=0, description="Seed of the split.")
    sample_rows: int = Field(
        50_000,
        ge=2,
        description="Most rows of each part held in memory: those that scores are computed on, and those of the "
        "training part that preparation is fitted on.",
    )
    sample_bytes: int = Field(2**27, ge=2**10, description="And most bytes of each part.")
    shuffle_buffer_rows: int = Field(10_000, ge=1, description="Rows of each worker among which the next one is drawn.")
    shuffle_buffer_bytes: int = Field(2**26, ge=1, description="And most bytes of those.")

    @model_validator(mode="after")
    def _fits(self) -> "Files":
        if self.format == "images":
            if not (self.height and self.width):
                raise ValueError("pictures need height and width; a net takes one size")
            if self.target or self.features or self.text:
                raise ValueError("pictures have no columns: leave target, features and text out")
        elif not self.target:
            raise ValueError("name the column that is learnt: target")
        elif self.text and self.features:
            raise ValueError("a row is a text or a list of features; leave one of them out")
        if self.target and self.target in (self.text, *self.features):
            raise ValueError(f"target {self.target!r} is among what it is to be told from; take it out")
        return self


def _tag_data(value: object) -> str:
    """Tell the two apart, so that an error speaks of the one that was meant."""
    return "files" if isinstance(value, Files) or (isinstance(value, dict) and "path" in value) else "rows"


class Cleaning(StrictModel):
    """What is done to rows before they are divided, so that no row stands on both sides of a split."""

    duplicates: Literal["drop", "keep"] = Field(
        "drop", description="Equal rows are kept once; equal inputs with different targets, not at all."
    )
    missing: Literal["refuse", "drop", "mean"] = Field(
        "refuse",
        description="A missing number (NaN) ends the run, drops its row, or takes the mean of the training rows; "
        "only after `mean` may a caller leave a feature out (null).",
    )


class TokenizerConfig(StrictModel):
    """How text becomes numbers; fitted on the training rows and kept in the bundle as tokenizer.json."""

    kind: Literal["characters", "words", "bpe"] = "characters"
    vocab_size: int = Field(8192, ge=4, description="Most tokens, with padding and unknown.")
    min_frequency: int = Field(1, ge=1, description="Rarer characters or words are unknown; not for BPE.")
    lowercase: bool = Field(False, description="Fold case first; not for text generation.")
    max_tokens: int = Field(512, ge=2, description="A longer text is read so far; for spans, serving refuses it.")


class Net(StrictModel):
    """The module that is trained."""

    source: PythonPath = Field(description="A class or function that returns a torch.nn.Module.")
    args: dict[str, JsonValue] = Field({}, description="Keyword arguments of the source.")


class Loss(StrictModel):
    """What is minimised: called as loss(output, targets, **args), a mean over rows."""

    source: PythonPath
    args: dict[str, JsonValue] = Field({}, description="Keyword arguments of the source.")


class Augmentation(StrictModel):
    """How training batches are varied, never held-out rows: augment(x_B, targets_B, generator, **args) -> both."""

    source: PythonPath
    args: dict[str, JsonValue] = Field({}, description="Keyword arguments of the source.")


class Optimizer(StrictModel):
    """One of torch.optim's, by its name there."""

    name: str = "AdamW"
    lr: float = Field(1e-3, gt=0, description="Peak learning rate.")
    args: dict[str, JsonValue] = Field({}, description="Other keyword arguments, as torch.optim names them.")

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        known = sorted(n for n, c in vars(torch.optim).items() if isinstance(c, type) and n != "Optimizer")
        if name not in known:
            raise ValueError(f"torch.optim has no {name!r}; it has {', '.join(known)}")
        return name


class LrSchedule(StrictModel):
    """How the learning rate moves over the whole run."""

    name: Literal["constant", "cosine"] = "cosine"
    warmup: float = Field(0.0, ge=0, lt=1, description="Share of all steps over which the rate rises from 0.")


class StopRule(StrictModel):
    """When a run ends: at whichever comes first."""

    epochs: int = Field(10, ge=1, description="Passes over the training rows.")
    steps: int | None = Field(None, ge=1, description="Optimiser steps; the schedule ends there too.")
    seconds: float | None = Field(None, gt=0, description="Time budget of the training itself.")
    loss: float | None = Field(None, description="An epoch's mean training loss that is low enough.")
    score: float | None = Field(
        None, description="A validation score, in the task's first metric, that is good enough."
    )
    patience: int | None = Field(None, ge=1, description="Epochs without a better validation score.")


class CheckpointPolicy(StrictModel):
    """What a run can go on from when something dies."""

    num_to_keep: int = Field(
        2, ge=1, description="So many of the best by validation score are kept, and always the last."
    )
    interval_s: float = Field(
        60.0, gt=0, description="Inside an epoch longer than this, a checkpoint so often; and at the end of each epoch."
    )


class Recipe(StrictModel):
    """One training run, whole."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="The model's name in the registry and in URLs.")
    task: TaskName
    summary: str = Field("", description="One sentence for the catalogue and the model card.")
    intended_use: str = Field("", description="What the model is for and what it is not for, for the model card.")
    data: Annotated[Annotated[Data, Tag("rows")] | Annotated[Files, Tag("files")], Discriminator(_tag_data)]
    clean: Cleaning = Cleaning()
    tokenizer: TokenizerConfig | None = Field(None, description="For text: how it becomes numbers.")
    net: Net
    loss: Loss | None = Field(None, description="None: what the task's literature minimises.")
    standardize: bool = Field(
        True, description="Centre and scale numbers by the training rows, as the first layer of the net."
    )
    optimizer: Optimizer = Optimizer()
    schedule: LrSchedule = LrSchedule()
    stop: StopRule = StopRule()
    checkpoints: CheckpointPolicy = CheckpointPolicy()
    augmentation: Augmentation | None = None
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="Keep an exponential moving average of the weights and publish that."
    )
    clip_grad_norm: float | None = Field(
        None, gt=0, description="Gradients are scaled down to this norm where theirs is larger."
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16: torch.autocast around forward and loss.")
    compile: bool = Field(False, description="torch.compile the net; needs a C++ compiler on every worker.")
    tolerance: float = Field(
        TOLERANCE,
        gt=0,
        description="How far a deployment in another precision, or compiled, may be from the net as it was trained: a "
        "share of its largest output.",
    )
    parallel: Literal["ddp", "fsdp"] = Field(
        "ddp", description="fsdp: weights, gradients and optimiser state are sharded over the workers (FSDP2)."
    )
    batch_size: int = Field(64, ge=1, description="Rows of one optimiser step, over all workers.")
    gradient_accumulation: int = Field(
        1, ge=1, description="Forward passes that one step's rows are cut into on each worker."
    )
    workers: int = Field(2, ge=1, description="Data-parallel workers where `--workers` says nothing.")
    seed: int = Field(0, ge=0, description="Seed of weights, order, dropout and augmentation.")

    @model_validator(mode="after")
    def _fits(self) -> "Recipe":
        if self.batch_size < self.workers * self.gradient_accumulation:
            raise ValueError(
                f"batch_rows={self.batch_size} is less than workers={self.workers} times accumulate={self.gradient_accumulation}; "
                "every forward pass needs a row"
            )
        if self.parallel == "fsdp" and (self.ema_decay or self.compile):
            raise ValueError("parallel=fsdp goes with neither ema_decay nor compile; leave them out")
        text = self.task in ("text-classification", "token-classification", "text-generation")
        if text != (self.tokenizer is not None):
            raise ValueError(f"task {self.task} {'needs `tokens`' if text else 'takes no `tokens`'}")
        if isinstance(self.data, Files):
            takes: tuple[str, ...] = ("tabular-classification", "tabular-regression")
            if self.data.format == "images" or self.data.text:
                takes = ("text-classification",) if self.data.text else ("image-classification",)
            if self.task not in takes:
                raise ValueError(f"task {self.task} does not go with these files; they are for {' or '.join(takes)}")
        return self
