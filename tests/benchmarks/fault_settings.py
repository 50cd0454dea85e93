"""Fault settings: what has to be there before a cluster starts for a fault to be injected into it later.

Root is needed for disks of one's own, a C compiler for a clock of one's own.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from cluster.local.running_cluster import temp_dir

DISK_BYTES = 512 * 2**20
WALL_CLOCK, CLOCK_FILE = Path(__file__).with_name("wall_clock.c"), "clock"

Setting = Callable[[Path], contextlib.AbstractContextManager[dict[str, str]]]
"""From the cluster's folder, whose `home` is SHOAL_HOME, to the environment that its processes also get."""


def _run(*command: str, remedy: str = "it needs root, which may mount file systems; leave it out with --only") -> str:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"this fault cannot be injected: {' '.join(command)}: {result.stderr.strip()}; {remedy}")
    return result.stdout.strip()


def _list_folders(folder: Path) -> list[Path]:
    folders = [folder / "home", temp_dir(folder / "home")]
    for each in folders:
        each.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folders


@contextlib.contextmanager
def mount_small_disks(folder: Path) -> Iterator[dict[str, str]]:
    """Put SHOAL_HOME and Ray's folder on file systems of their own."""
    folders = _list_folders(folder)
    for each in folders:
        _run("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "tmpfs", str(each))
    try:
        yield {}
    finally:
        for each in folders:
            subprocess.run(["umount", "--lazy", str(each)], check=False)


@contextlib.contextmanager
def mount_own_disk(folder: Path) -> Iterator[dict[str, str]]:
    """Put SHOAL_HOME and Ray's folder on one block device of their own, whose rate can be limited."""
    image, disk = folder / "disk.image", folder / "disk"
    with image.open("wb") as file:
        file.truncate(4 * DISK_BYTES)
    disk.mkdir()
    _run("mkfs.ext4", "-q", str(image))
    _run("mount", "-o", "loop", str(image), str(disk))
    mounted = [disk]
    try:
        for number, each in enumerate(_list_folders(folder)):
            part = disk / str(number)
            part.mkdir(mode=0o700)
            _run("mount", "--bind", str(part), str(each))
            mounted.insert(0, each)
        yield {}
    finally:
        for each in mounted:
            subprocess.run(["umount", "--lazy", str(each)], check=False)


def find_device(folder: Path) -> str:
    """The number of the block device that a folder is on."""
    device = folder.stat().st_dev
    return f"{os.major(device)}:{os.minor(device)}"


@contextlib.contextmanager
def fake_clock(folder: Path) -> Iterator[dict[str, str]]:
    """Give the cluster's processes a wall clock that a file moves (wall_clock.c); their other clocks are the system's.

    faketime(1) does the same, but its 0.9.10 breaks Python's sleep.
    """
    library = folder / "wall_clock.so"
    _run("cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(WALL_CLOCK), remedy="it needs a C compiler")
    set_clock(folder, 0)
    yield {"LD_PRELOAD": str(library), "WALL_CLOCK_FILE": str(folder / CLOCK_FILE)}


def set_clock(folder: Path, ahead_s: int) -> None:
    """Set how far ahead of the system's the wall clock of the cluster's processes is."""
    file = folder / CLOCK_FILE
    # In place: processes have it mapped.
    with file.open("r+b" if file.exists() else "wb") as opened:
        opened.write(ahead_s.to_bytes(8, sys.byteorder, signed=True))
