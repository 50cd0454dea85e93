"""Program archive: where each member of a model.pt2 lies, after the zip file has been checked for tricks.

Deploy walk: reader.py -> [archive.py]
The layout is that of torch.export.save in torch 2.13, which documents none. Imports no torch: a bundle is verified
without it.
"""

import os
import re
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

from training.errors import BundleError

REMEDY = "save it with training.save_bundle"
MODEL, WEIGHTS_CONFIG, CONSTANTS_CONFIG = (
    "models/model.json",
    "data/weights/model_weights_config.json",
    "data/constants/model_constants_config.json",
)

# Every member of a program without pickles. torch.export.load would unpickle some of the others (example inputs, custom
# objects), and a bundle's checksums prove nothing about its author: an unknown member is refused. So is every program
# of a torch with another layout; save_bundle checks what it wrote, so that this shows at export.
_MEMBERS = re.compile(
    r"(?P<root>[^/\\]+)/(?P<name>data/weights/(?:weight_\d+|model_weights_config\.json)"
    r"|data/constants/(?:tensor_\d+|model_constants_config\.json)"
    r"|models/model\.json|archive_format|archive_version|\.data/version|\.data/serialization_id|byteorder"
    r"|data/sample_inputs/model\.pt)",
    re.ASCII,
)
_SAMPLE_INPUTS = "data/sample_inputs/model.pt"  # empty where a program has no example inputs
_CONTENTS = {"archive_format": b"pt2", "archive_version": b"0", "byteorder": b"little"}
_LOCAL_HEADER = struct.Struct("<4s2xHH16xHH")
_MAX_MEMBERS = 100_000
_MAX_DIRECTORY = 200 * _MAX_MEMBERS
_TAIL_SIZE = 70_000
"""Bytes at the end of a zip file that its last records lie in, the comment included."""


@dataclass(frozen=True)
class Member:
    """The bytes of one member of the archive: offset in the file, and size."""

    offset: int
    size: int


@dataclass(frozen=True)
class Archive:
    """A checked archive; names of members are without the folder that all of them are in."""

    path: Path
    members: dict[str, Member]

    def read(self, name: str) -> bytes:
        """Read a member.

        Raises:
            BundleError: there is none of this name.
        """
        if name not in self.members:
            raise BundleError(f"{self.path.name} holds no {name}; {REMEDY}")
        member = self.members[name]
        with self.path.open("rb") as stream:
            stream.seek(member.offset)
            return stream.read(member.size)


def read_archive(path: Path) -> Archive:
    """List the members of a torch.export archive; their bytes are not read.

    Raises:
        BundleError: it is no such archive, holds a member that may be a pickle, or its entries are not plain: twice the
            same name, compressed, encrypted, overlapping, or outside of the file.
    """
    try:
        _check_directory(path)
        with zipfile.ZipFile(path) as archive, path.open("rb") as stream:
            entries = archive.infolist()
            if not any(entry.filename.endswith("/archive_format") for entry in entries):
                _refuse(path, "is not a torch.export archive of format pt2")
            members = _list_members(path, entries, stream)
    except (zipfile.BadZipFile, ValueError, RuntimeError, OverflowError, EOFError, OSError, struct.error) as error:
        raise BundleError(f"{path.name} is not a torch.export archive ({error}); {REMEDY}") from error
    checked = Archive(path, members)
    for name, content in _CONTENTS.items():
        if checked.members.get(name, Member(0, 0)).size > 99 or checked.read(name).strip() != content:
            _refuse(path, f"has another {name} than {content.decode()}")
    return checked


def _check_directory(path: Path) -> None:
    """Refuse an archive whose table of contents is larger than any of ours, before it is read as a whole."""
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(-min(size, _TAIL_SIZE), os.SEEK_END)
        tail = stream.read()
    # Where the table begins, by the last record of the file or, in archives of more than 4 GiB, by the one before it.
    for signature, form in ((b"PK\x06\x06", "<36xQ"), (b"PK\x05\x06", "<8xI")):
        start = tail.rfind(signature)
        if start >= 0 and len(tail) - start >= 4 + struct.calcsize(form):
            (directory_size,) = struct.unpack_from(form, tail, start + 4)
            if directory_size > _MAX_DIRECTORY and directory_size != 0xFFFFFFFF:
                _refuse(path, f"has a table of contents of {directory_size} bytes; at most {_MAX_DIRECTORY} are read")


def _list_members(path: Path, entries: list[zipfile.ZipInfo], stream: BinaryIO) -> dict[str, Member]:
    file_size = path.stat().st_size
    members: dict[str, Member] = {}
    roots, end = set(), 0
    if len(entries) > _MAX_MEMBERS:
        _refuse(path, f"holds {len(entries)} members; at most {_MAX_MEMBERS} are read")
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        match = _MEMBERS.fullmatch(entry.filename)
        if not match or (match["name"] == _SAMPLE_INPUTS and entry.file_size):
            _refuse(path, f"holds {entry.filename[:100]!r}, which may be a pickle")
        name = match["name"]
        if name in members:
            _refuse(path, f"holds {name} twice")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size or entry.flag_bits & 1:
            _refuse(path, f"holds {name} compressed or encrypted, and torch.export.save stores it plain")
        offset = _find_content(path, entry, stream)
        if entry.header_offset < end or offset + entry.file_size > file_size:
            _refuse(path, f"holds {name} over another member or outside of the file")
        end = offset + entry.file_size
        members[name] = Member(offset, entry.file_size)
        roots.add(match["root"])
    if len(roots) != 1:
        _refuse(path, "has more than one folder")
    return members


def _find_content(path: Path, entry: zipfile.ZipInfo, stream: BinaryIO) -> int:
    """Return the offset of a member's content, which the local header before it decides."""
    stream.seek(entry.header_offset)
    header = stream.read(30)
    if len(header) < 30:
        _refuse(path, f"holds {entry.filename!r} outside of the file")
    signature, flags, method, name_size, extra_size = _LOCAL_HEADER.unpack(header)
    if signature != b"PK\x03\x04" or flags & 1 or method or stream.read(name_size) != entry.orig_filename.encode():
        _refuse(path, f"holds {entry.filename!r}, whose two headers differ")
    return entry.header_offset + 30 + int(name_size) + int(extra_size)


def _refuse(path: Path, problem: str) -> NoReturn:
    raise BundleError(f"{path.name} {problem}; {REMEDY}")
