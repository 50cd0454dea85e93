"""Latest: finds what a run goes on from, where the account that Ray Train keeps of its checkpoints cannot be read.

Train walk: training.run.driver -> [latest.py], for a run that is resumed
Ray Train writes that account in place; a driver that is killed, or a store that is full, may leave half of it. Then the
checkpoints say themselves what there is: one counts if its two files are whole.
"""

import json
from typing import Any

from pyarrow import fs

from training.registry import storage
from training.worker.checkpoint import METADATA_FILE, TENSORS_FILE

SNAPSHOT_FILE = "checkpoint_manager_snapshot.json"
# A safetensors file begins with the length of its header, in so many bytes.
LENGTH_BYTES = 8


def find_last_checkpoint(run_storage: str, run: str) -> str | None:
    """Find the newest whole checkpoint of a run whose account is broken, and remove the account.

    Returns:
        The checkpoint's URI; None where Ray Train finds the last one itself, or there is none.
    """
    files, folder = storage.open_filesystem(f"{run_storage}/{run}")
    entries = files.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    names = {entry.base_name for entry in entries}
    if _is_readable(files, f"{folder}/{SNAPSHOT_FILE}", names):
        return None
    if SNAPSHOT_FILE in names:
        files.delete_file(f"{folder}/{SNAPSHOT_FILE}")
    found = {name: _count_steps(files, f"{folder}/{name}") for name in names if name.startswith("checkpoint_")}
    whole = sorted((steps, name) for name, steps in found.items() if steps is not None)
    return f"{run_storage}/{run}/{whole[-1][1]}" if whole else None


def _is_readable(files: fs.FileSystem, account: str, names: set[str]) -> bool:
    """Whether Ray Train can read its account, and everything in it is there."""
    try:
        content = json.loads(_read(files, account))
        listed = [result["checkpoint_dir_name"] for result in content["checkpoint_results"]]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return set(listed) <= names


def _count_steps(files: fs.FileSystem, checkpoint: str) -> int | None:
    """How many steps a checkpoint holds; None if it is not whole."""
    try:
        steps = json.loads(_read(files, f"{checkpoint}/{METADATA_FILE}"))["progress"]["global_step"]
        with files.open_input_file(f"{checkpoint}/{TENSORS_FILE}") as file:
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            header: dict[str, Any] = json.loads(file.read(length))
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
            whole = file.size() == LENGTH_BYTES + length + max(ends, default=0)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return int(steps) if whole else None


def _read(files: fs.FileSystem, path: str) -> bytes:
    with files.open_input_file(path) as file:
        content: bytes = file.read()
    return content
