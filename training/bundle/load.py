"""Load: a verified bundle is brought into memory and onto a device.

Deploy walk: deployments.models.served_model -> [load.py] -> verify.py
    -> training.bundle.program.reader -> training.bundle.program.interpreter
"""

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue
from torch import nn

from training.bundle.manifest import DECODER_FILE, EXAMPLE_FILE, PROGRAM_FILE, TOKENIZER_FILE, Manifest
from training.bundle.program.interpreter import ProgramModule
from training.bundle.verify import read_bundle
from training.data.tokenizer import Tokenizer
from training.errors import BundleError


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
        BundleError: see `read_bundle`; also where a program does not fit the installed torch.
    """
    manifest, programs = read_bundle(folder, digest)
    tokenizer, decoder = None, None
    if TOKENIZER_FILE in manifest.files:
        tokenizer = _read_tokenizer(folder / TOKENIZER_FILE)
    if DECODER_FILE in manifest.files:
        decoder = ProgramModule(programs[DECODER_FILE], device)
    return Bundle(
        manifest=manifest,
        net=ProgramModule(programs[PROGRAM_FILE], device),
        example=_read_example(folder / EXAMPLE_FILE),
        tokenizer=tokenizer,
        decoder=decoder,
    )


def _read_tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_json(path.read_text())
    except BaseException as error:  # a panic of the library is none of Exception
        if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        raise BundleError(f"{path.name} is not a tokenizer: {error}; save it with training.save_bundle") from error


def _read_example(path: Path) -> dict[str, JsonValue]:
    try:
        example = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path.name} is not JSON: {error}; save it with training.save_bundle") from error
    if not isinstance(example, dict):
        raise BundleError(f"{path.name} is not a request; save it with training.save_bundle")
    return example
