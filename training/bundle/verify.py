"""Verify: every file of a bundle is checked against its manifest before anything in it is used.

Deploy walk: load.py -> [verify.py] -> training.bundle.program.reader
Imports no torch: the catalog and the command line verify bundles too.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from training.bundle.manifest import (
    CARD_FILE,
    DECODER_FILE,
    EXAMPLE_FILE,
    FORMAT,
    MANIFEST_FILE,
    PROGRAM_FILE,
    PROVENANCE_FILE,
    Manifest,
    sha256,
)
from training.bundle.program.reader import Program, read_program
from training.errors import BundleError, summarize_validation_error

MAX_PROVENANCE_BYTES = 1024**2


def verify_bundle(folder: Path, digest: str | None = None) -> Manifest:
    """Check a bundle; arguments and errors are those of `read_bundle`."""
    return read_bundle(folder, digest)[0]


def read_bundle(folder: Path, digest: str | None = None) -> tuple[Manifest, dict[str, Program]]:
    """Read a bundle's manifest, check every file against it, and read its programs, by the names of their files.

    Args:
        folder: the bundle.
        digest: the one that the registry pinned; None for a bundle from elsewhere, which has none to compare with.

    Raises:
        BundleError: a file is missing, altered, not listed, or not of this format; the message names it.
    """
    manifest = parse_manifest(find_manifest(folder).read_bytes(), digest)
    _check_provenance_file(folder / PROVENANCE_FILE)
    names = _list_names(folder)
    for name in sorted(names ^ manifest.files.keys()):
        problem = "is not listed in" if name in names else "is missing, though listed in"
        raise BundleError(f"{_format_name(name)} {problem} {MANIFEST_FILE}; fetch the bundle again")
    for name in sorted({PROGRAM_FILE, EXAMPLE_FILE, CARD_FILE} - manifest.files.keys()):
        raise BundleError(f"{name} is not listed in {MANIFEST_FILE}; every bundle has one")
    for name, expected in manifest.files.items():
        # Anything but a plain file, a pipe or a device, might never end.
        if not is_plain_file(folder / name) or sha256(folder / name) != expected:
            raise BundleError(
                f"{name} was altered: its sha256 is not the one in {MANIFEST_FILE}; fetch the bundle again"
            )
    programs = {name: read_program(folder / name) for name in manifest.files.keys() & {PROGRAM_FILE, DECODER_FILE}}
    return manifest, programs


def _list_names(folder: Path) -> set[str]:
    """The files that a manifest has to list: it cannot list itself, nor what is signed over it."""
    # A name with a folder in it would lead outside.
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()}
    return names - {MANIFEST_FILE, PROVENANCE_FILE}


def _check_provenance_file(path: Path) -> None:
    """Raise BundleError where what a copy of the bundle takes along unread is no plain, small file."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise BundleError(f"{path.name} is no plain file; fetch the bundle again, or delete it")
    if path.exists() and path.stat().st_size > MAX_PROVENANCE_BYTES:
        raise BundleError(
            f"{path.name} has {path.stat().st_size} bytes; {MAX_PROVENANCE_BYTES} is the limit: fetch the bundle "
            "again, or delete it"
        )


@dataclass(frozen=True)
class FileCheck:
    """A file of a bundle: its sha256, and the one that the manifest lists; "" for none."""

    name: str
    listed: str
    actual: str


def check_files(folder: Path, manifest: Manifest) -> list[FileCheck]:
    """Compare every file with the manifest, in the order of their names."""
    checks = []
    for name in sorted(_list_names(folder) | manifest.files.keys()):
        is_inside = folder.resolve() in (folder / name).resolve().parents
        actual = sha256(folder / name) if is_inside and is_plain_file(folder / name) else ""
        checks.append(FileCheck(name, manifest.files.get(name, ""), actual))
    return checks


def _format_name(name: str) -> str:
    """A file's name for a message, which is one line whatever the manifest says."""
    return name if name.isprintable() and len(name) <= 100 else repr(name[:100])


def find_manifest(folder: Path) -> Path:
    """The path of a bundle's manifest.

    Raises:
        BundleError: the folder holds none.
    """
    path = folder / MANIFEST_FILE
    if not is_plain_file(path):
        raise BundleError(f"{folder} holds no {MANIFEST_FILE}; give the folder of a bundle")
    return path


def is_plain_file(path: Path) -> bool:
    """Whether a path is a file: no link to another, no folder, no pipe, no device."""
    return path.is_file() and not path.is_symlink()


def parse_manifest(content: bytes, digest: str | None = None) -> Manifest:
    """Parse bundle.json and check its digest; the other files are not read.

    Raises:
        BundleError: it is not a manifest of this format, or its digest is not its content's or not the pinned one.
    """
    try:
        _check_format(json.loads(content))
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise BundleError(
            f"{MANIFEST_FILE} is not a bundle manifest of format {FORMAT}: {summarize_validation_error(error)}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{MANIFEST_FILE} is not JSON: {error}; fetch the bundle again") from error
    if manifest.digest != manifest.computed_digest():
        raise BundleError(f"{MANIFEST_FILE} was altered: its content does not match its digest; fetch the bundle again")
    if digest is not None and manifest.digest != digest:
        raise BundleError(
            f"{MANIFEST_FILE} has digest {manifest.digest}, the registry pinned {digest}; it was replaced, "
            "fetch the bundle again"
        )
    return manifest


def _check_format(manifest: object) -> None:
    bundle_format = manifest.get("format") if isinstance(manifest, dict) else None
    if bundle_format == FORMAT:
        return
    if isinstance(bundle_format, int) and bundle_format > FORMAT:
        remedy = "load it with the Shoal that wrote it, or a newer one"
    else:
        remedy = "train its recipe again, or save it again with training.save_bundle"
    raise BundleError(
        f"{MANIFEST_FILE} has bundle format {json.dumps(bundle_format):.80}; this Shoal reads format {FORMAT}: {remedy}"
    )
