"""Storage: folders and files, local or in an object store, by URI.

Deploy walk: model_registry.py -> [storage.py]
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote, urlparse

from training.errors import BundleError
from training.settings import mask_passwords

if TYPE_CHECKING:
    from pyarrow import fs

T = TypeVar("T")


def fetch_folder(uri: str, into: Path) -> Path:
    """Return a local path of the folder at `uri`: its own if it is local, otherwise a copy at `into`."""
    local = _local_path(uri)
    if local:
        return local
    if into.exists():
        return into
    from pyarrow import fs

    filesystem, path = _open_remote(uri)
    into.parent.mkdir(parents=True, exist_ok=True)
    # Rename is atomic on one filesystem: another replica sees the whole folder or none.
    partial = Path(tempfile.mkdtemp(dir=into.parent, prefix=".copying-"))
    try:
        fs.copy_files(path, str(partial), source_filesystem=filesystem, destination_filesystem=fs.LocalFileSystem())
        with contextlib.suppress(OSError):  # another process was first
            partial.rename(into)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return into


def use_bundle(uri: str, into: Path, use: Callable[[Path], T]) -> T:
    """Use the bundle at `uri`; a copy of it that turns out to be damaged is fetched once more.

    Args:
        uri: of the bundle's folder.
        into: the copy, where the folder is not local.
        use: called with the local folder.

    Raises:
        BundleError: `use` does, for the folder at `uri` itself or a fresh copy.
    """
    folder = fetch_folder(uri, into)
    try:
        return use(folder)
    except BundleError:
        if folder != into:
            raise
        shutil.rmtree(into, ignore_errors=True)
        return use(fetch_folder(uri, into))


def read_file(uri: str, max_bytes: int | None = None) -> bytes:
    """Read one file, or its first max_bytes.

    Raises:
        OSError: it cannot be read, or is none: a pipe might never end.
    """
    local = _local_path(uri)
    if local:
        if local.exists() and not local.is_file():
            raise OSError(f"{local} is no file")
        with local.open("rb") as stream:
            return stream.read(-1 if max_bytes is None else max_bytes)
    filesystem, path = open_filesystem(uri)
    with filesystem.open_input_file(path) as file:
        content: bytes = file.read(max_bytes)
    return content


def replace_file(uri: str, content: bytes) -> None:
    """Write one file in a folder that exists; a reader finds what was there before, or all of the new content.

    Raises:
        OSError: it cannot be written.
    """
    local = _local_path(uri)
    if local:
        # Not in its own folder, which others may be listing.
        descriptor, temporary = tempfile.mkstemp(dir=local.parent.parent, prefix=f".{local.name}-")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
            Path(temporary).replace(local)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return
    filesystem, path = open_filesystem(uri)
    with filesystem.open_output_stream(path) as stream:
        stream.write(content)


def delete_folder(uri: str) -> None:
    """Delete the folder at `uri` and everything in it.

    Raises:
        FileNotFoundError: there is none.
    """
    filesystem, path = open_filesystem(uri)
    filesystem.delete_dir(path)


def delete_empty_parents(uri: str, root: str) -> None:
    """Delete the folders that are left empty between a root and what was at `uri`; an object store has none."""
    path, local_root = _local_path(uri), _local_path(root)
    if path is None or local_root is None:
        return
    # One that holds something else, and with it those above, stays.
    with contextlib.suppress(OSError):
        for parent in path.parents:
            if local_root not in parent.parents:
                break
            parent.rmdir()


def open_filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """Return the filesystem that reads and writes `uri`, and the path in it."""
    from pyarrow import fs

    local = _local_path(uri)
    return (fs.LocalFileSystem(), str(local)) if local else _open_remote(uri)


def _open_remote(uri: str) -> tuple[fs.FileSystem, str]:
    """Open an object store.

    Raises:
        BundleError: the URI is of no store that is known here, as a model of another MLflow client may have.
    """
    from pyarrow import fs

    try:
        filesystem, path = fs.FileSystem.from_uri(uri)
    except (ValueError, NotImplementedError) as error:  # pyarrow's are subclasses
        raise BundleError(f"{mask_passwords(uri)} is no folder and no object store that can be read: {error}") from None
    return filesystem, path


def _local_path(uri: str) -> Path | None:
    """The path of a local file or folder; None for a URI of an object store."""
    parsed = urlparse(uri)
    if parsed.scheme == "file":
        return Path(unquote(parsed.path))
    return None if "://" in uri else Path(uri)
