"""Folders, local or in an object store, behind one URI."""

from pathlib import Path
from urllib.parse import unquote, urlparse

from pyarrow import fs


def fetch(uri: str, into: Path) -> Path:
    """Give a local path of the folder at `uri`: itself where it is local, else a copy below `into`."""
    local = _local(uri)
    if local:
        return local
    store, path = fs.FileSystem.from_uri(uri)
    into.mkdir(parents=True, exist_ok=True)
    fs.copy_files(path, str(into), source_filesystem=store, destination_filesystem=fs.LocalFileSystem())
    return into


def delete(uri: str) -> None:
    """Remove the folder at `uri` and all that is in it."""
    local = _local(uri)
    store, path = (fs.LocalFileSystem(), str(local)) if local else fs.FileSystem.from_uri(uri)
    store.delete_dir(path)


def _local(uri: str) -> Path | None:
    parsed = urlparse(uri)
    if parsed.scheme == "file":
        return Path(unquote(parsed.path))
    return None if "://" in uri else Path(uri)
