"""Bundle: the one contract between training and serving.

Train walk:  loop.py -> [bundle.py: save] -> registry.py
Deploy walk: replica.py -> registry.py -> [bundle.py: load, verify]
A folder; `bundle.json` names the sha256 of the other files and carries a digest of itself. Nothing in it needs the
author's Python code, and nothing in it is a pickle.
"""
# Shapes: B rows of a batch (dynamic), T steps of a row (dynamic where rows have any), C classes, Z latent numbers.

import hashlib
import json
import platform
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, JsonValue, ValidationError
from torch import Tensor, nn

from training import program
from training.closed import Closed, one_line
from training.errors import BundleError, Mistake
from training.evaluation import card
from training.recipe import TOLERANCE, TaskName
from training.tokens import Tokeniser
from training.words import Answer, ImageWords, SeriesWords, TextWords, Words

PROGRAM, MANIFEST, EXAMPLE, CARD = "model.pt2", "bundle.json", "example.json", "README.md"
TOKENISER, DECODER = "tokenizer.json", "decoder.pt2"

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "BF16", "FP32", "FP64"
]
"""Tensor data types, as the Open Inference Protocol names them."""

DATATYPES: dict[torch.dtype, Datatype] = {
    torch.bool: "BOOL",
    torch.uint8: "UINT8",
    torch.uint16: "UINT16",
    torch.uint32: "UINT32",
    torch.uint64: "UINT64",
    torch.int8: "INT8",
    torch.int16: "INT16",
    torch.int32: "INT32",
    torch.int64: "INT64",
    torch.float16: "FP16",
    torch.bfloat16: "BF16",
    torch.float32: "FP32",
    torch.float64: "FP64",
}


class TensorSpec(Closed):
    """One tensor that goes in or comes out; -1 in a shape is free, and the first is the batch."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...] = Field(min_length=1)


class DatasetCard(Closed):
    """What the model was trained on."""

    source: str
    licence: str
    fingerprint: str = Field(description="sha256 over every row; see training.data.Dataset.fingerprint.")
    rows: dict[str, int] = Field(description="Rows in each part: train, validation, test.")
    split: str = Field("", description="How the rows were divided.")
    cleaned: dict[str, int] = Field({}, description="Rows dropped before that, by reason.")
    leaks: int | None = Field(None, description="Test rows whose input stands in the training part as well.")


class Interval(Closed):
    """A 95% bootstrap interval over the held-out rows."""

    low: float
    high: float


class Calibration(Closed):
    """Expected calibration error on the held-out rows, without and with the answer's temperature."""

    error_before: float
    error_after: float


class EnergyCard(Closed):
    """What the run's machines drew, and what that emitted; kg_co2 is None where no country was set."""

    kwh: float
    kg_co2: float | None
    country: str
    how: str


class About(Closed):
    """What the maker of a model says of it."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="Its name in the registry and in URLs.")
    task: TaskName
    words: Words = Field(description="How one row is put in words: the pre-processing.")
    answer: Answer = Field(description="What the output means: the post-processing.")
    summary: str = Field("", description="One sentence for the catalogue.")
    use: str = Field("", description="What it is for, and what it is not for.")
    metrics: dict[str, float] = Field({}, description="Scores on held-out rows.")
    headline: str = Field("", description="The metric that stands first.")
    intervals: dict[str, Interval] = Field({}, description="Of the headline, over the held-out rows.")
    by_class: dict[str, dict[str, float]] = Field({}, description="Scores of each label by itself.")
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


class Manifest(About):
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


class Bundle:
    """A verified bundle in memory: its manifest, its net on a device, and what goes with them."""

    def __init__(
        self,
        manifest: Manifest,
        net: nn.Module,
        example: dict[str, JsonValue],
        tokeniser: Tokeniser | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        self.manifest, self.net, self.example = manifest, net, example
        self.tokeniser, self.decoder = tokeniser, decoder


def save(
    folder: Path,
    net: nn.Module,
    *,
    inputs: Tensor,
    about: About,
    outputs: tuple[str, ...] = ("logits",),
    tokeniser: Tokeniser | None = None,
    example: Any = None,
    decoder: Callable[[Tensor], Tensor] | None = None,
    pictures: Mapping[str, bytes] | None = None,
) -> Manifest:
    """Export a trained net and write its bundle folder.

    Args:
        folder: is made; must not exist yet.
        net: on the CPU; takes one tensor (B, ...) and gives what `about.answer` says.
        inputs: at least two real rows, shape (B, ...), of the type that callers will send.
        about: what the card says.
        outputs: names of the tensors that the net gives.
        tokeniser: for text.
        example: one real row in words; needed for text, else taken from `inputs`.
        decoder: for pictures: latent numbers (B, Z) to pictures.
        pictures: PNG files for the card, by name.

    Raises:
        Mistake: the net cannot be exported with free dimensions, or does not give what `about.answer` says.
    """
    net, longest = net.eval(), most_steps(about.words)
    if longest is not None and inputs.shape[1] < 2:
        filling = (0, 0) * (inputs.ndim - 2) + (0, 1)
        inputs = torch.nn.functional.pad(inputs, filling, value=about.words.padding)  # type: ignore[union-attr]
    with torch.inference_mode():
        given = net(inputs)
    given = given if isinstance(given, tuple) else (given,)
    described = specs(about, inputs, given, outputs, tokeniser)
    written = program.export(net, inputs, longest)
    folder.mkdir(parents=True)
    torch.export.save(written, folder / PROGRAM)
    if tokeniser:
        (folder / TOKENISER).write_text(tokeniser.content())
    if decoder:
        latent = torch.zeros(2, given[1].shape[1])
        torch.export.save(program.export(_Function(decoder, net), latent), folder / DECODER)
    for name, content in (pictures or {}).items():
        (folder / name).write_bytes(content)
    request: dict[str, JsonValue] = {"inputs": [_said(about, inputs[0], example)]}
    (folder / EXAMPLE).write_text(json.dumps(request, ensure_ascii=False) + "\n")
    return _seal(folder, about, described, sorted(pictures or {}))


def _seal(folder: Path, about: About, described: tuple[TensorSpec, ...], pictures: list[str]) -> Manifest:
    """Write the card, then the manifest over everything."""
    manifest = Manifest(
        **dict(about),
        created=datetime.now(UTC).replace(microsecond=0),
        inputs=(described[0],),
        outputs=described[1:],
        versions={"torch": torch.__version__, "shoal": version("shoal"), "python": platform.python_version()},
        files={},
    )
    (folder / CARD).write_text(card.render(manifest, pictures))
    files = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    manifest = manifest.model_copy(update={"files": files})
    manifest = manifest.model_copy(update={"digest": manifest.computed_digest()})
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
    return manifest


def most_steps(words: Words) -> int | None:
    """The longest row, where rows have steps."""
    if isinstance(words, TextWords):
        return words.max_tokens
    return words.max_steps if isinstance(words, SeriesWords) else None


class _Function(nn.Module):
    """A function of a net as a net of its own, with the same weights."""

    def __init__(self, function: Callable[[Tensor], Tensor], net: nn.Module) -> None:
        super().__init__()
        self._net, self._function = net, function

    def forward(self, x: Tensor) -> Tensor:
        return self._function(x)


def _said(about: About, row: Tensor, example: Any) -> JsonValue:
    if isinstance(about.words, TextWords):
        if example is None:
            raise Mistake("a bundle for text needs `example`: one real row in words")
        said: JsonValue = example[:80] if about.answer.kind == "continuation" else example
        return said
    return about.words.example(row)


def specs(
    about: About, inputs: Tensor, given: tuple[Tensor, ...], names: tuple[str, ...], tokeniser: Tokeniser | None
) -> tuple[TensorSpec, ...]:
    """Describe input and outputs, after checking that they are what words and answer say."""
    stepped = isinstance(about.words, TextWords | SeriesWords)
    rows, steps = len(inputs), inputs.shape[1] if stepped else 0
    wanted = _wanted(about, rows, steps, tokeniser)
    shapes = [tuple(tensor.shape) for tensor in given]
    if len(shapes) != len(wanted) or any(
        len(shape) != len(want) or any(n not in (None, got) for n, got in zip(want, shape, strict=True))
        for shape, want in zip(shapes, wanted, strict=True)
    ):
        said = " and ".join(str(tuple("any" if n is None else n for n in want)) for want in wanted)
        raise Mistake(
            f"the net gives {' and '.join(map(str, shapes))} for {rows} rows; a model whose answer is "
            f"{about.answer.kind} must give {said}: {(type(about.answer).__doc__ or '').strip()}"
        )
    described = []
    for name, tensor in zip(("input", *names), (inputs, *given), strict=True):
        if tensor.dtype not in DATATYPES:
            raise Mistake(f"the net takes or gives {tensor.dtype}; convert to one of {', '.join(DATATYPES.values())}")
        free = 2 if stepped and (name == "input" or about.answer.kind in ("spans", "continuation")) else 1
        shape = (*[-1] * free, *tensor.shape[free:])
        described.append(TensorSpec(name=name, datatype=DATATYPES[tensor.dtype], shape=shape))
    return tuple(described)


def _wanted(about: About, rows: int, steps: int, tokeniser: Tokeniser | None) -> list[tuple[int | None, ...]]:
    """The shapes that an answer's outputs have; None for any size."""
    answer = about.answer
    if answer.kind == "classes":
        return [(rows, len(answer.labels))]
    if answer.kind == "number":
        return [(rows, 1)]
    if answer.kind == "spans":
        return [(rows, steps, 1 + 2 * len(answer.types))]
    if answer.kind == "continuation":
        return [(rows, steps, len(tokeniser) if tokeniser else None)]
    if answer.kind == "boxes":
        return [(rows, None, 6)]
    picture = about.words
    size = (picture.channels, picture.height, picture.width) if isinstance(picture, ImageWords) else (None,) * 3
    return [(rows, *size), (rows, answer.latent), (rows, answer.latent)]


def verify(folder: Path, digest: str | None = None) -> Manifest:
    """Read a bundle's manifest and check every file against it.

    Args:
        folder: the bundle.
        digest: what the registry pinned; None where there is nothing to compare with (a bundle from elsewhere).

    Raises:
        BundleError: a file is missing, altered, not listed, or not of this format; the message names it.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleError(f"{folder} holds no {MANIFEST}; give the folder of a bundle")
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise BundleError(f"{MANIFEST} is not a bundle manifest of format 2: {one_line(error)}") from error
    if manifest.digest != manifest.computed_digest():
        raise BundleError(f"{MANIFEST} was altered: its content does not match its digest; fetch the bundle again")
    if digest is not None and manifest.digest != digest:
        raise BundleError(f"{MANIFEST} has digest {manifest.digest}, the registry pinned {digest}; it was replaced")
    # bundle.json cannot list itself; a name with a folder in it would lead outside.
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir() or p.is_symlink()} - {MANIFEST}
    for name in sorted(found ^ manifest.files.keys()):
        what = "is not listed in" if name in found else "is missing, though listed in"
        raise BundleError(f"{name} {what} {MANIFEST}; fetch the bundle again")
    for name in {PROGRAM, EXAMPLE, CARD} - manifest.files.keys():
        raise BundleError(f"{name} is not listed in {MANIFEST}; a bundle has one")
    for name, expected in manifest.files.items():
        if (folder / name).is_symlink() or _sha256(folder / name) != expected:
            raise BundleError(f"{name} was altered: its sha256 is not the one in {MANIFEST}; fetch the bundle again")
    for name in manifest.files.keys() & {PROGRAM, DECODER}:
        program.refuse_pickles(folder / name)
    return manifest


def load(folder: Path, digest: str | None = None, device: str = "cpu") -> Bundle:
    """Verify a bundle and bring its net onto a device, ready to run.

    Raises:
        BundleError: see `verify`.
    """
    manifest = verify(folder, digest)
    net = program.load(folder / PROGRAM, device)
    example = json.loads((folder / EXAMPLE).read_text())
    tokeniser = Tokeniser.parse((folder / TOKENISER).read_text()) if TOKENISER in manifest.files else None
    decoder = program.load(folder / DECODER, device) if DECODER in manifest.files else None
    return Bundle(manifest, net, example, tokeniser, decoder)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
