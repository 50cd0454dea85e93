"""The outbox: what is in it survives its process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.access.caller import Caller
from deployments.access.usage import outbox as outbox_module
from deployments.access.usage.batch_sums import decode_records
from deployments.access.usage.outbox import Outbox, open_dead_segments
from tests.deployments.access.usage.outboxes import ALICE, BOB, MAX_BYTES, make_outbox, make_source, make_usage

WRITER = """
import os, sys
from pathlib import Path
from tests.deployments.access.usage.outboxes import make_outbox, make_usage
outbox = make_outbox(Path(sys.argv[1]))
for number in range(int(sys.argv[2])):
    outbox.append(make_usage(rows=number), 200)
print("written", flush=True)
while True:
    outbox.append(make_usage(rows=1), 200)
"""


def test_a_record_holds_what_a_request_came_to(tmp_path: Path) -> None:
    outbox = make_outbox(tmp_path, keeps_ids=True)
    usage = make_usage(BOB, b"e" * 16, request_id="mine", compute_s=0.25, rows=2, tokens_in=3, tokens_out=4)
    usage.bytes_in, usage.bytes_out = 5, 2**40

    outbox.append(make_usage(ALICE), 429)
    outbox.append(usage, 200)

    batch = outbox.read(1, outbox.end, 10)
    (record,) = decode_records(batch)
    assert batch.callers[record["caller"]] == ("globex/bob", "key-bob")
    assert [record[name] for name in ("compute_s", "rows", "tokens_in", "tokens_out", "bytes_in", "status")] == [
        *(0.25, 2, 3, 4, 5, 200)
    ]
    assert record["bytes_out"] == 2**32 - 1  # what a record can say
    assert batch.request_ids.rstrip() == b"mine"


def test_what_a_killed_process_answered_is_read_by_the_next_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path), "500"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=os.getcwd()) as process:  # noqa: PTH109
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        assert open_dead_segments(tmp_path) == []
        process.send_signal(signal.SIGKILL)

    segments = open_dead_segments(tmp_path)

    records = [record for each in segments for record in decode_records(each.read(each.first, each.end, is_dead=True))]
    assert [record["rows"] for record in records[:500]] == list(range(500))
    assert {record["rows"] for record in records[500:]} <= {1}
    assert all(record["state"] == 1 for record in records)


def test_segments_follow_each_other_and_go_when_they_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "SEGMENT_RECORDS", 4)
    outbox = make_outbox(tmp_path)

    for number in range(10):
        outbox.append(make_usage(rows=number), 200)

    position, rows = 0, []
    while position < outbox.end:
        records = decode_records(outbox.read(position, outbox.end, 3))
        rows += [int(record["rows"]) for record in records]
        position += len(records)
    assert rows == list(range(10))
    assert len(list(tmp_path.iterdir())) == 3
    outbox.acknowledge(8)
    assert len(list(tmp_path.iterdir())) == 1
    outbox.close(10)
    assert list(tmp_path.iterdir()) == []


def test_more_callers_than_a_table_holds_begin_a_new_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "SEGMENT_CALLERS", 2)
    outbox = make_outbox(tmp_path)

    for number in range(5):
        outbox.append(make_usage(Caller(f"acme/k{number}", str(number))), 200)

    names = []
    for position in range(5):
        batch = outbox.read(position, position + 1, 1)
        names.append(batch.callers[decode_records(batch)[0]["caller"]][0])
    assert names == [f"acme/k{number}" for number in range(5)]


def test_what_does_not_fit_is_dropped_and_counted_as_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "SEGMENT_RECORDS", 4)
    outbox = Outbox(tmp_path, make_source(), 0)

    for _ in range(11):
        outbox.append(make_usage(), 200)

    assert (outbox.end, outbox.lost) == (8, 3)
    outbox.acknowledge(8)
    outbox.append(make_usage(), 200)
    assert outbox.end == 9


def test_an_outbox_of_the_default_size_holds_half_a_million_requests(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, make_source(), 64 * 1024**2)

    assert outbox._max_segments * outbox_module.SEGMENT_RECORDS > 800_000
    assert MAX_BYTES < 64 * 1024**2
