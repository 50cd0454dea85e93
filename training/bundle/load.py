"""Load: a verified bundle is brought into memory and onto a device.

Deploy walk: deployments.models.served_model -> [load.py] -> verify.py
"""

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue
from torch import nn

from training.bundle.exported_program import load_program
from training.bundle.manifest import DECODER_FILE, EXAMPLE_FILE, PROGRAM_FILE, TOKENIZER_FILE, Manifest
from training.bundle.verify import verify_bundle
from training.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class Bundle:
    """A verified bundle in memory.

    Attributes:
        manifest: bundle.json.
        net: the program, on its device.
        example: one real `predict` request.
        tokenizer: of a text model.
        decoder: of an image generator: latent vectors (B, Z) to images.
    """

    manifest: Manifest
    net: nn.Module
    example: dict[str, JsonValue]
    tokenizer: Tokenizer | None = None
    decoder: nn.Module | None = None


def load_bundle(folder: Path, digest: str | None = None, device: str = "cpu") -> Bundle:
    """Verify a bundle and load its net onto a device, ready to run.

    Raises:
        BundleError: see `verify_bundle`.
    """
    manifest = verify_bundle(folder, digest)
    tokenizer, decoder = None, None
    if TOKENIZER_FILE in manifest.files:
        tokenizer = Tokenizer.from_json((folder / TOKENIZER_FILE).read_text())
    if DECODER_FILE in manifest.files:
        decoder = load_program(folder / DECODER_FILE, device)
    return Bundle(
        manifest=manifest,
        net=load_program(folder / PROGRAM_FILE, device),
        example=json.loads((folder / EXAMPLE_FILE).read_text()),
        tokenizer=tokenizer,
        decoder=decoder,
    )
