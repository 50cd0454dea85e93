"""Load: every file of a bundle is verified against its manifest before anything in it is used.

Deploy walk: deployments.models.replica -> training.registry.storage -> [load.py]
"""

import json
from pathlib import Path

from pydantic import JsonValue, ValidationError
from torch import nn

from training.bundle.exported_program import load_program, refuse_pickles
from training.bundle.manifest import (
    CARD_FILE,
    DECODER_FILE,
    EXAMPLE_FILE,
    MANIFEST_FILE,
    PROGRAM_FILE,
    TOKENIZER_FILE,
    Manifest,
    sha256,
)
from training.data.tokenizer import Tokenizer
from training.errors import BundleError, summarize_validation_error


class Bundle:
    """A verified bundle in memory: its manifest, its net on a device, and what goes with them."""

    def __init__(
        self,
        manifest: Manifest,
        net: nn.Module,
        example: dict[str, JsonValue],
        tokenizer: Tokenizer | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        self.manifest, self.net, self.example = manifest, net, example
        self.tokenizer, self.decoder = tokenizer, decoder


def verify_bundle(folder: Path, digest: str | None = None) -> Manifest:
    """Read a bundle's manifest and check every file against it.

    Args:
        folder: the bundle.
        digest: what the registry pinned; None where there is nothing to compare with (a bundle from elsewhere).

    Raises:
        BundleError: a file is missing, altered, not listed, or not of this format; the message names it.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise BundleError(f"{folder} holds no {MANIFEST_FILE}; give the folder of a bundle")
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise BundleError(
            f"{MANIFEST_FILE} is not a bundle manifest of format 2: {summarize_validation_error(error)}"
        ) from error
    if manifest.digest != manifest.computed_digest():
        raise BundleError(f"{MANIFEST_FILE} was altered: its content does not match its digest; fetch the bundle again")
    if digest is not None and manifest.digest != digest:
        raise BundleError(
            f"{MANIFEST_FILE} has digest {manifest.digest}, the registry pinned {digest}; it was replaced"
        )
    # bundle.json cannot list itself; a name with a folder in it would lead outside.
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir() or p.is_symlink()} - {
        MANIFEST_FILE
    }
    for name in sorted(found ^ manifest.files.keys()):
        what = "is not listed in" if name in found else "is missing, though listed in"
        raise BundleError(f"{name} {what} {MANIFEST_FILE}; fetch the bundle again")
    for name in {PROGRAM_FILE, EXAMPLE_FILE, CARD_FILE} - manifest.files.keys():
        raise BundleError(f"{name} is not listed in {MANIFEST_FILE}; a bundle has one")
    for name, expected in manifest.files.items():
        if (folder / name).is_symlink() or sha256(folder / name) != expected:
            raise BundleError(
                f"{name} was altered: its sha256 is not the one in {MANIFEST_FILE}; fetch the bundle again"
            )
    for name in manifest.files.keys() & {PROGRAM_FILE, DECODER_FILE}:
        refuse_pickles(folder / name)
    return manifest


def load_bundle(folder: Path, digest: str | None = None, device: str = "cpu") -> Bundle:
    """Verify a bundle and bring its net onto a device, ready to run.

    Raises:
        BundleError: see `verify`.
    """
    manifest = verify_bundle(folder, digest)
    net = load_program(folder / PROGRAM_FILE, device)
    example = json.loads((folder / EXAMPLE_FILE).read_text())
    tokeniser = Tokenizer.from_json((folder / TOKENIZER_FILE).read_text()) if TOKENIZER_FILE in manifest.files else None
    decoder = load_program(folder / DECODER_FILE, device) if DECODER_FILE in manifest.files else None
    return Bundle(manifest, net, example, tokeniser, decoder)
