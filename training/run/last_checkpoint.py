"""Last checkpoint: finds what a run resumes from where Ray Train's own list of checkpoints cannot be read.

Train walk: driver.py -> [last_checkpoint.py] -> training.worker.ray_internals
Ray Train rewrites its list in place, so a killed driver or a full disk may leave half of it. Then the
checkpoints themselves are read; one counts if its two files are complete.
"""

import json
from typing import Any

from pyarrow import fs

from training.registry import storage
from training.worker.checkpoint import METADATA_FILE, TENSORS_FILE
from training.worker.ray_internals import SNAPSHOT_FILE, parse_snapshot

# A safetensors file begins with the length of its header, as an unsigned little-endian integer of so many bytes.
HEADER_LENGTH_BYTES = 8


def find_last_checkpoint(run_storage: str, run: str) -> str | None:
    """Find the newest complete checkpoint of a run whose list is unreadable, and delete that list.

    Returns:
        The checkpoint's URI; None where Ray Train can read its list, or there is no complete checkpoint.
    """
    filesystem, folder = storage.open_filesystem(f"{run_storage}/{run}")
    entries = filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    names = {entry.base_name for entry in entries}
    if _is_snapshot_readable(filesystem, folder, names):
        return None
    if SNAPSHOT_FILE in names:
        filesystem.delete_file(f"{folder}/{SNAPSHOT_FILE}")
    checkpoints = [name for name in names if name.startswith("checkpoint_")]
    steps = {name: _read_step(filesystem, f"{folder}/{name}") for name in checkpoints}
    complete = sorted((step, name) for name, step in steps.items() if step is not None)
    return f"{run_storage}/{run}/{complete[-1][1]}" if complete else None


def _is_snapshot_readable(filesystem: fs.FileSystem, folder: str, names: set[str]) -> bool:
    """Whether Ray Train's list can be read and every checkpoint in it exists."""
    try:
        listed = parse_snapshot(_read(filesystem, f"{folder}/{SNAPSHOT_FILE}"))
    except (OSError, ValueError):
        return False
    return set(listed) <= names


def _read_step(filesystem: fs.FileSystem, checkpoint: str) -> int | None:
    """The optimizer step of a checkpoint; None if it is not complete."""
    try:
        step = json.loads(_read(filesystem, f"{checkpoint}/{METADATA_FILE}"))["progress"]["global_step"]
        with filesystem.open_input_file(f"{checkpoint}/{TENSORS_FILE}") as file:
            header_length = int.from_bytes(file.read(HEADER_LENGTH_BYTES), "little")
            header: dict[str, Any] = json.loads(file.read(header_length))
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
            is_complete = file.size() == HEADER_LENGTH_BYTES + header_length + max(ends, default=0)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return int(step) if is_complete else None


def _read(filesystem: fs.FileSystem, path: str) -> bytes:
    with filesystem.open_input_file(path) as file:
        content: bytes = file.read()
    return content
