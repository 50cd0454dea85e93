"""Folders, local or in an object store, behind one URI."""

import contextlib
import shutil
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlparse

from pyarrow import fs


def fetch_folder(uri: str, into: Path) -> Path:
    """Give a local path of the folder at `uri`: itself where it is local, else a copy below `into`."""
    local = _local_path(uri)
    if local:
        return local
    if into.exists():
        return into
    store, path = fs.FileSystem.from_uri(uri)
    into.parent.mkdir(parents=True, exist_ok=True)
    # Rename is atomic on one filesystem: another replica sees the whole folder or none.
    copying = Path(tempfile.mkdtemp(dir=into.parent, prefix=".copying-"))
    try:
        fs.copy_files(path, str(copying), source_filesystem=store, destination_filesystem=fs.LocalFileSystem())
        with contextlib.suppress(OSError):  # another was first
            copying.rename(into)
    finally:
        shutil.rmtree(copying, ignore_errors=True)
    return into


def delete_folder(uri: str) -> None:
    """Remove the folder at `uri` and all that is in it."""
    store, path = open_filesystem(uri)
    store.delete_dir(path)


def open_filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """What reads and writes there, and the path that it takes."""
    local = _local_path(uri)
    return (fs.LocalFileSystem(), str(local)) if local else fs.FileSystem.from_uri(uri)


def _local_path(uri: str) -> Path | None:
    parsed = urlparse(uri)
    if parsed.scheme == "file":
        return Path(unquote(parsed.path))
    return None if "://" in uri else Path(uri)
