"""Bundle: the one contract between training and serving.

Train walk:  loop.py -> [bundle.py: save] -> registry.py
Deploy walk: replica.py -> registry.py -> [bundle.py: load, verify]
A folder of five files; `bundle.json` names the sha256 of the others and carries a digest of itself. Nothing in it needs
the author's Python code, and nothing in it is a pickle.
"""
# Shapes: B rows of a batch (dynamic), C classes.

import hashlib
import json
import platform
import re
import zipfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, JsonValue, ValidationError
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass

from training import card
from training.closed import Closed, one_line
from training.errors import Mistake
from training.recipe import Task
from training.words import Classes, Words

PROGRAM, MANIFEST, EXAMPLE, CARD = "model.pt2", "bundle.json", "example.json", "README.md"

Datatype = Literal["BOOL", "UINT8", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64"]
"""Tensor data types, as the Open Inference Protocol names them."""

DATATYPES: dict[torch.dtype, Datatype] = {
    torch.bool: "BOOL",
    torch.uint8: "UINT8",
    torch.int8: "INT8",
    torch.int16: "INT16",
    torch.int32: "INT32",
    torch.int64: "INT64",
    torch.float16: "FP16",
    torch.float32: "FP32",
    torch.float64: "FP64",
}


class BundleError(Mistake):
    """A bundle that cannot be trusted or read; the message names the file."""


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


class About(Closed):
    """What the maker of a model says of it."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="Its name in the registry and in URLs.")
    task: Task
    words: Words = Field(description="How one row is put in words: the pre-processing.")
    answer: Classes = Field(description="What the output means: the post-processing.")
    summary: str = Field("", description="One sentence for the catalogue.")
    metrics: dict[str, float] = Field({}, description="Scores on held-out rows.")
    dataset: DatasetCard | None = None
    recipe: dict[str, JsonValue] | None = None
    training: dict[str, JsonValue] = Field({}, description="How the run went.")
    git_commit: str | None = Field(None, description="The commit of the recipe's code.")


class Manifest(About):
    """bundle.json."""

    format: Literal[1] = 1
    created: datetime
    inputs: tuple[TensorSpec, ...] = Field(min_length=1, max_length=1)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1, max_length=1)
    versions: dict[str, str]
    files: dict[str, str] = Field(description="sha256 of every other file of the folder.")
    digest: str = Field("", description="sha256 of this manifest without this line, as canonical JSON.")

    def computed_digest(self) -> str:
        """Digest of everything but the digest: it covers all files through their checksums."""
        content = json.dumps(self.model_dump(mode="json", exclude={"digest"}), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()


class Bundle:
    """A verified bundle in memory: its manifest, its net on a device, and its example request."""

    def __init__(self, manifest: Manifest, net: nn.Module, example: dict[str, JsonValue]) -> None:
        self.manifest, self.net, self.example = manifest, net, example


def save(folder: Path, net: nn.Module, *, inputs: Tensor, about: About) -> Manifest:
    """Export a trained net and write its bundle folder.

    Args:
        folder: is made; must not exist yet.
        net: on the CPU; takes one tensor (B, ...), returns logits (B, C).
        inputs: at least two real rows, shape (B, ...), of the type that callers will send; the first is the example.
        about: what the card says.

    Raises:
        Mistake: the net cannot be exported with a free batch dimension, or does not give (B, C) logits.
    """
    net, labels = net.eval(), about.answer.labels
    with torch.inference_mode():
        y_BC = net(inputs)
    if y_BC.ndim != 2 or len(y_BC) != len(inputs) or y_BC.shape[1] != len(labels):
        raise Mistake(
            f"the net gives shape {tuple(y_BC.shape)} for {len(inputs)} rows and {len(labels)} labels; "
            f"it must give ({len(inputs)}, {len(labels)}): logits, one column per label"
        )
    for tensor in (inputs, y_BC):
        if tensor.dtype not in DATATYPES:
            raise Mistake(f"the net takes or gives {tensor.dtype}; convert to one of {', '.join(DATATYPES.values())}")
    program = export(net, inputs)
    folder.mkdir(parents=True)
    torch.export.save(program, folder / PROGRAM)
    example: dict[str, JsonValue] = {"inputs": [about.words.example(inputs[0])]}
    (folder / EXAMPLE).write_text(json.dumps(example, ensure_ascii=False) + "\n")
    manifest = Manifest(
        **dict(about),
        created=datetime.now(UTC).replace(microsecond=0),
        inputs=(TensorSpec(name="input", datatype=DATATYPES[inputs.dtype], shape=(-1, *inputs.shape[1:])),),
        outputs=(TensorSpec(name="logits", datatype=DATATYPES[y_BC.dtype], shape=(-1, len(labels))),),
        versions={"torch": torch.__version__, "shoal": version("shoal"), "python": platform.python_version()},
        files={},
    )
    (folder / CARD).write_text(card.render(manifest))
    files = {file: _sha256(folder / file) for file in (PROGRAM, EXAMPLE, CARD)}
    manifest = manifest.model_copy(update={"files": files})
    manifest = manifest.model_copy(update={"digest": manifest.computed_digest()})
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
    return manifest


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
        raise BundleError(f"{MANIFEST} is not a bundle manifest of format 1: {one_line(error)}") from error
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
    _refuse_pickles(folder / PROGRAM)
    return manifest


# Every kind of member that a program without pickles has. torch.export.load would unpickle some of the others (example
# inputs, custom objects), and a bundle's checksums are its maker's own: what is not known here is refused.
_MEMBERS = re.compile(
    r"^[^/]+/(data/weights/(weight_\d+|[\w.]+_config\.json)|data/constants/(tensor_\d+|[\w.]+_config\.json)"
    r"|models/model\.json|archive_format|archive_version|\.data/version|\.data/serialization_id|byteorder)$"
)


def _refuse_pickles(program: Path) -> None:
    """Refuse a program that would run code while it is loaded."""
    try:
        with zipfile.ZipFile(program) as archive:
            members = {m.filename: m for m in archive.infolist()}
            configs = [json.loads(archive.read(name)) for name in members if name.endswith("_config.json")]
    except (zipfile.BadZipFile, ValueError) as error:
        raise BundleError(f"{PROGRAM} is not a torch.export archive: {error}") from error
    if not any(name.endswith("/archive_format") for name in members):
        raise BundleError(
            f"{PROGRAM} is not a torch.export archive of format pt2; export it with torch {torch.__version__}"
        )
    for name, member in members.items():
        if not _MEMBERS.match(name) and not (name.endswith("/data/sample_inputs/model.pt") and member.file_size == 0):
            raise BundleError(f"{PROGRAM} holds {name}, which may be a pickle; save it with training.bundle.save")
    for config in configs:
        for name, payload in config.get("config", {}).items():
            if payload.get("use_pickle") is not False:
                raise BundleError(f"{PROGRAM} holds {name} as a pickle; save it with training.bundle.save")


def load(folder: Path, digest: str | None = None, device: str = "cpu") -> Bundle:
    """Verify a bundle and bring its net onto a device, ready to run.

    Raises:
        BundleError: see `verify`.
    """
    manifest = verify(folder, digest)
    program = torch.export.load(folder / PROGRAM)
    if device != "cpu":
        program = move_to_device_pass(program, device)
    example = json.loads((folder / EXAMPLE).read_text())
    return Bundle(manifest, program.module(), example)


def export(net: nn.Module, inputs: Tensor) -> torch.export.ExportedProgram:
    """Turn a net in eval mode into a program that needs none of its Python code.

    Raises:
        Mistake: it cannot be exported with a free batch dimension.
    """
    try:
        program = torch.export.export(net, (inputs,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    except Exception as error:  # torch.export raises many unrelated types
        reason = str(error).strip().splitlines()[0]
        raise Mistake(f"the net cannot be exported with a free batch dimension: {reason}") from error
    # torch.export would pickle its example inputs into the archive; ours stand in example.json.
    program.example_inputs = None
    return program


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
