"""Access log: lines of several writers, rotation by size, and a writer that never waits."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from deployments.observability.access_log import BACKUPS, FILE_NAME, AccessLog

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_lines_are_written_whole_and_the_file_is_rotated_by_size(tmp_path: Path) -> None:
    log = AccessLog(tmp_path, 4096, writes=True)
    loop = asyncio.get_running_loop()
    log.start(loop)
    for number in range(600):
        os.write(log.descriptor, b'{"number":%d}\n' % number)
        if number % 50 == 0:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    log.close(loop)

    files = sorted(tmp_path.glob(f"{FILE_NAME}*"), key=lambda file: file.name, reverse=True)
    assert 2 <= len(files) <= BACKUPS + 1
    assert all(file.stat().st_size <= 8192 for file in files)
    numbers = [json.loads(line)["number"] for file in files for line in file.read_text().splitlines()]
    assert numbers == list(range(600 - len(numbers), 600))


async def test_a_line_that_comes_in_two_parts_is_one(tmp_path: Path) -> None:
    log = AccessLog(tmp_path, 10**6, writes=True)
    os.write(log.descriptor, b'{"a":')
    log.read()
    os.write(log.descriptor, b"1}\nrest")
    log.read()
    assert (tmp_path / FILE_NAME).read_text() == '{"a":1}\n'
    log.close(asyncio.get_running_loop())


async def test_a_writer_is_never_held_up_by_a_reader_that_has_gone(tmp_path: Path) -> None:
    log = AccessLog(tmp_path, 10**6, writes=True)
    writer = os.open(tmp_path / "access.pipe", os.O_RDWR | os.O_NONBLOCK)
    log.close(asyncio.get_running_loop())
    line = b"x" * 999 + b"\n"
    written = 0
    with pytest.raises(BlockingIOError):  # noqa: PT012 - the pipe is full at some write
        while True:
            written += os.write(writer, line)

    # The next process finds what the pipe holds.
    successor = AccessLog(tmp_path, 10**7, writes=True)
    successor.read()
    successor.close(asyncio.get_running_loop())
    assert written >= 60_000
    assert (tmp_path / FILE_NAME).stat().st_size == written
    os.close(writer)


async def test_only_lines_of_sampled_requests_are_handed_on(tmp_path: Path) -> None:
    traced: list[dict[str, object]] = []
    log = AccessLog(tmp_path, 10**6, writes=False, on_traced=traced.append)
    os.write(log.descriptor, b'{"span_id":"-","a":1}\n{"span_id":"","a":2}\n{"span_id":"ab","a":3}\n{"a":4}\n')
    log.read()
    log.close(asyncio.get_running_loop())
    assert traced == [{"span_id": "ab", "a": 3}]
    assert not (tmp_path / FILE_NAME).exists()
