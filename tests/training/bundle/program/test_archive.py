"""Archives with tricks are refused before anything is allocated."""

import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.training.bundle.program.archives import (
    MODEL,
    WEIGHTS_CONFIG,
    change_json,
    read_members,
    save_program,
    write_members,
)
from training.bundle.exported_program import load_program
from training.bundle.program.reader import read_program
from training.errors import BundleError


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return save_program(tmp_path)


def test_a_rewritten_archive_with_the_same_members_is_read(program: Path) -> None:
    write_members(program, read_members(program))

    assert list(read_program(program).tensors) == ["weight", "bias"]


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/etc/evil",
        "model/../evil",
        "model/data/weights/weight_0.pkl",
        "model/extra/x",
        "model\\evil",
        "a/b/c",
    ],
)
def test_a_member_of_another_name_is_refused(program: Path, name: str) -> None:
    with zipfile.ZipFile(program, "a") as archive:
        archive.writestr(name, "x")

    with pytest.raises(BundleError, match=r"holds .*, which may be a pickle"):
        read_program(program)


def test_a_member_of_a_second_folder_is_refused(program: Path) -> None:
    members = read_members(program)
    write_members(program, members)
    with zipfile.ZipFile(program, "a") as archive:
        archive.writestr("other/data/weights/weight_9", "x")

    with pytest.raises(BundleError, match="more than one folder"):
        read_program(program)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_is_there_twice_is_refused(program: Path) -> None:
    write_members(program, read_members(program))
    with zipfile.ZipFile(program, "a") as archive:
        archive.writestr(f"model/{MODEL}", "{}")

    with pytest.raises(BundleError, match=r"holds models/model\.json twice"):
        read_program(program)


def test_compressed_members_are_refused(program: Path) -> None:
    members = read_members(program) | {MODEL: b"{}" + b" " * 10_000_000}
    write_members(program, members, zipfile.ZIP_DEFLATED)

    with pytest.raises(BundleError, match="compressed or encrypted"):
        read_program(program)


def find_central_entry(content: bytes, name: bytes) -> int:
    position = content.rindex(name)
    return content.rindex(b"PK\x01\x02", 0, position)


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (20, struct.pack("<II", 2**31, 2**31), "over another member or outside of the file"),
        (20, struct.pack("<II", 8, 2**31), "compressed or encrypted"),
        (24, struct.pack("<I", 9999), "compressed or encrypted"),
        (42, struct.pack("<I", 0), "headers differ"),
        (42, struct.pack("<I", 2**31), "outside of the file"),
        (8, struct.pack("<H", 1), "compressed or encrypted"),
    ],
    ids=[
        "size beyond the file",
        "two sizes",
        "larger when unpacked",
        "an offset of another",
        "far away",
        "encrypted",
    ],
)
def test_an_entry_that_lies_is_refused(program: Path, offset: int, value: bytes, message: str) -> None:
    write_members(program, read_members(program))
    content = bytearray(program.read_bytes())
    start = find_central_entry(bytes(content), b"model/data/weights/weight_1") + offset
    content[start : start + len(value)] = value
    program.write_bytes(content)

    with pytest.raises(BundleError, match=message):
        read_program(program)


def test_a_truncated_archive_is_refused(program: Path) -> None:
    program.write_bytes(program.read_bytes()[:-200])

    with pytest.raises(BundleError, match=r"model\.pt2 is not a torch\.export archive"):
        read_program(program)


@pytest.mark.parametrize("size", [0, 1, 20, 23, 25, 28])
def test_weights_of_another_size_than_their_shape_are_refused_if_they_do_not_fit(program: Path, size: int) -> None:
    members = read_members(program)
    write_members(program, members | {"data/weights/weight_0": bytes(size)})

    if size == 28:
        # More than is needed: a view into larger storage, as torch saves one.
        assert read_program(program).tensors["weight"].shape == (3, 2)
    else:
        with pytest.raises(BundleError, match=r"weight of shape .* is not within its"):
            read_program(program)


def test_a_table_of_contents_that_is_too_large_is_refused_before_it_is_read(program: Path) -> None:
    content = program.read_bytes()
    end = content.rindex(b"PK\x05\x06")
    size = 100 * 2**20
    record = bytearray(content[end:])
    record[12:16] = struct.pack("<I", size)
    program.write_bytes(content[:end] + bytes(size) + record)

    tracemalloc.start()
    with pytest.raises(BundleError, match="has a table of contents of 104857600 bytes"):
        read_program(program)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_a_table_of_contents_before_the_file_is_refused(program: Path) -> None:
    write_members(program, read_members(program))
    content = bytearray(program.read_bytes())
    end = content.rindex(b"PK\x05\x06")
    content[end + 12 : end + 16] = struct.pack("<I", end + 1000)
    program.write_bytes(content)

    with pytest.raises(BundleError, match=r"model\.pt2 is not a torch\.export archive"):
        read_program(program)


@pytest.mark.parametrize("name", ["a." * 20 + "weight", "_input_index", "_addresses"])
def test_names_of_weights_that_no_net_has_are_refused(program: Path, name: str) -> None:
    members = read_members(program)
    for key in (MODEL, WEIGHTS_CONFIG):
        for before in (b'"parameter_name": "weight"', b'"weight": {'):
            members[key] = members[key].replace(before, before.replace(b'"weight"', f'"{name}"'.encode()))
    write_members(program, members)

    with pytest.raises(BundleError, match=r"has 21 parts; at most 16 are read|attribute .* already exists"):
        load_program(program)


def set_meta(key: str, value: Any) -> Callable[[Any], None]:
    def change(config: Any) -> None:
        config["config"]["weight"]["tensor_meta"][key] = value

    return change


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sizes", [{"as_int": 2**40}, {"as_int": 2**40}]),
        ("sizes", [{"as_int": 2**61}, {"as_int": 0}, {"as_int": 2}]),
        ("sizes", [{"as_int": -3}, {"as_int": -2}]),
        ("sizes", [{"as_int": 10**30}, {"as_int": 2}]),
        ("sizes", [{"as_expr": {"expr_str": "Symbol('s0')", "hint": None}}, {"as_int": 2}]),
        ("strides", [{"as_int": -2}, {"as_int": 1}]),
        ("strides", [{"as_int": 2**60}, {"as_int": 1}]),
        ("strides", [{"as_int": 1}]),
        ("storage_offset", {"as_int": 1}),
        ("storage_offset", {"as_int": -1}),
        ("dtype", 8),
        ("dtype", 99),
        ("layout", 1),
        ("device", {"type": "meta", "index": None}),
    ],
)
def test_a_tensor_that_is_not_within_its_bytes_is_refused(program: Path, key: str, value: Any) -> None:
    change_json(program, WEIGHTS_CONFIG, set_meta(key, value))

    tracemalloc.start()
    with pytest.raises(BundleError):
        load_program(program)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_a_weight_that_repeats_one_element_a_million_times_is_refused(program: Path) -> None:
    def change(config: Any) -> None:
        meta = config["config"]["weight"]["tensor_meta"]
        meta["sizes"], meta["strides"] = [{"as_int": 10**12}, {"as_int": 2}], [{"as_int": 0}, {"as_int": 1}]

    change_json(program, WEIGHTS_CONFIG, change)

    with pytest.raises(BundleError, match="is not within its 24 bytes; give the net contiguous tensors"):
        read_program(program)


def test_deeply_nested_json_is_refused(program: Path) -> None:
    members = read_members(program)
    write_members(program, members | {MODEL: b'{"graph_module":' + b"[" * 100_000 + b"]" * 100_000 + b"}"})

    with pytest.raises(BundleError, match=r"models/model\.json"):
        read_program(program)


VERIFY = """
import sys
from pathlib import Path
from training.bundle.program.reader import read_program
read_program(Path(sys.argv[1]))
print(sorted({"torch", "numpy", "sympy"} & set(sys.modules)))
"""


def test_a_program_is_verified_without_torch(program: Path) -> None:
    result = subprocess.run([sys.executable, "-c", VERIFY, str(program)], capture_output=True, text=True)

    assert result.stdout.strip() == "[]", result.stderr


LOAD = """
import sys
from pathlib import Path
import torch
from training.bundle.exported_program import load_program
net = load_program(Path(sys.argv[1]))
with torch.inference_mode():
    net(torch.ones(3, 2))
slow = ("sympy", "torch._dynamo", "torch._inductor", "torch._export.serde")
print([name for name in slow if name in sys.modules])
"""


def test_a_program_is_loaded_and_run_without_the_modules_of_export(program: Path) -> None:
    result = subprocess.run([sys.executable, "-c", LOAD, str(program)], capture_output=True, text=True)

    assert result.stdout.strip() == "[]", result.stderr
