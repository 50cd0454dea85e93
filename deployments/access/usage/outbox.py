"""Outbox: what a replica has answered, in mapped files that survive its death until the collector has counted them.

Request walk: request_usage.py -> [outbox.py] -> pusher.py
A record is a copy of 64 bytes into memory: once it is there, `kill -9` of this process takes nothing away. Files are
segments of so many records; a segment is deleted when the collector has counted all of it.

Segment: a header of JSON in HEADER_BYTES, a table of callers, the records, and where they are kept, request ids.
"""

import json
import logging
import mmap
import struct
import time
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deployments.access.caller import Caller
from deployments.access.usage.request_usage import RequestUsage
from training.registry.process_identity import ProcessIdentity

# Native, which packs in a third of the time; without gaps, as batch_sums.py has it.
RECORD = struct.Struct("@16sddIIIIIIHBB")
"""Event id, time of the end, compute seconds, caller, rows, tokens in, out, bytes in, out, status, kind, state."""

assert RECORD.size == 60
STATE_OFFSET = RECORD.size - 1
HEADER_BYTES, CALLER_BYTES, REQUEST_ID_BYTES = 4096, 192, 128
SEGMENT_RECORDS, SEGMENT_CALLERS = 16_384, 1024
_pack, _time = RECORD.pack_into, time.time
_BEAT = struct.Struct("=d")
# Of the time of the last beat, at the header's end.
_BEAT_OFFSET = HEADER_BYTES - _BEAT.size
_MAX_U32 = 2**32 - 1
SUFFIX = ".usage"
logger = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class OutboxSource:
    """Whose outbox it is.

    Attributes:
        model: name of the model or pipeline.
        version: of it.
        cpus: that are reserved for the process.
        gpus: that are reserved for it.
        started_s: when it began to hold them, in seconds since the epoch.
        process: str of its ProcessIdentity.
        id: of the outbox.
    """

    model: str
    version: str
    cpus: float = 0.0
    gpus: float = 0.0
    started_s: float = field(default_factory=time.time)
    process: str = field(default_factory=lambda: str(ProcessIdentity.current()))
    id: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass(frozen=True)
class UsageBatch:
    """Consecutive records of one segment.

    Attributes:
        source: whose they are.
        position: number of the first record.
        records: RECORDs.
        callers: name and id of the key of each caller, by its number.
        request_ids: REQUEST_ID_BYTES of each record; empty where they are not kept.
        alive_until_s: the process lived until then at least, in seconds since the epoch.
        is_dead: whether it has ended: what it answered last may not have been sent, and been answered elsewhere.
    """

    source: OutboxSource
    position: int
    records: bytes
    callers: tuple[tuple[str, str], ...]
    request_ids: bytes
    alive_until_s: float
    is_dead: bool = False

    def __len__(self) -> int:
        return len(self.records) // RECORD.size


def _data_offset() -> int:
    return HEADER_BYTES + SEGMENT_CALLERS * CALLER_BYTES


class Segment:
    """One mapped file; its process appends, and whoever comes later reads."""

    def __init__(self, path: Path, *, source: OutboxSource | None = None, first: int = 0, keeps_ids: bool = False):
        """Open a segment, or make one.

        Args:
            path: of the file.
            source: of a new one.
            first: number of the first record of a new one.
            keeps_ids: whether a new one keeps requests' ids.
        """
        self.path = path
        if source is not None:
            header = json.dumps({"first": first, "keeps_ids": keeps_ids, **asdict(source)}).encode()
            record_bytes = RECORD.size + (REQUEST_ID_BYTES if keeps_ids else 0)
            # Under another name until it is complete: a reader must not find half a header.
            unfinished = path.with_suffix(".new")
            with unfinished.open("wb") as file:
                file.write(header.ljust(HEADER_BYTES, b"\0"))
                file.truncate(_data_offset() + SEGMENT_RECORDS * record_bytes)
            unfinished.rename(path)
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        fields: dict[str, Any] = json.loads(self._map[:_BEAT_OFFSET].rstrip(b"\0"))
        self.first, self._keeps_ids = int(fields.pop("first")), bool(fields.pop("keeps_ids"))
        self.source = OutboxSource(**fields)
        self._callers: dict[Caller, int] = {}
        self._offset = _data_offset()
        self._ids_offset = _data_offset() + SEGMENT_RECORDS * RECORD.size
        self.count = 0 if source is not None else self._count_records()

    def beat(self, now_s: float) -> None:
        """Note that the process lives."""
        _BEAT.pack_into(self._map, _BEAT_OFFSET, now_s)

    @property
    def alive_until_s(self) -> float:
        """The last beat, or the start."""
        beat_s: float = _BEAT.unpack_from(self._map, _BEAT_OFFSET)[0]
        return max(self.source.started_s, beat_s)

    def append(self, usage: RequestUsage, status: int) -> bool:
        """Append a record; False where the segment is full."""
        count, caller = self.count, usage.caller
        number = self._callers.get(caller)
        if count >= SEGMENT_RECORDS or (number is None and len(self._callers) >= SEGMENT_CALLERS):
            return False
        if number is None:
            number = self._add_caller(caller)
        event_id, kind, _ = usage.event
        offset = self._offset
        if self._keeps_ids:
            start = self._ids_offset + count * REQUEST_ID_BYTES
            self._map[start : start + REQUEST_ID_BYTES] = usage.request_id[:REQUEST_ID_BYTES].ljust(REQUEST_ID_BYTES)
        try:
            # Field after field: the state is written last, so that a record counts once it is complete.
            _pack(
                self._map,
                offset,
                event_id,
                _time(),
                usage.compute_s,
                number,
                usage.rows,
                usage.tokens_in,
                usage.tokens_out,
                usage.bytes_in,
                usage.bytes_out,
                status,
                kind,
                1,
            )
        except struct.error:
            self._pack_capped(usage, status, number, offset)
        self.count, self._offset = count + 1, offset + RECORD.size
        return True

    def _pack_capped(self, usage: RequestUsage, status: int, number: int, offset: int) -> None:
        sizes = (usage.rows, usage.tokens_in, usage.tokens_out, usage.bytes_in, usage.bytes_out)
        capped = [min(size, _MAX_U32) for size in sizes]
        event_id, kind, _ = usage.event
        _pack(self._map, offset, event_id, time.time(), usage.compute_s, number, *capped, status, kind, 1)

    def _add_caller(self, caller: Caller) -> int:
        number = len(self._callers)
        start = HEADER_BYTES + number * CALLER_BYTES
        text = f"{caller.name}|{caller.key_id}".encode()[:CALLER_BYTES]
        self._map[start : start + CALLER_BYTES] = text.ljust(CALLER_BYTES, b"\0")
        self._callers[caller] = number
        return number

    def read(self, position: int, end: int, *, is_dead: bool) -> UsageBatch:
        """Read records from one number to before another, both of this segment."""
        start, stop = position - self.first, end - self.first
        data = _data_offset()
        ids = self._map[self._ids_offset + start * REQUEST_ID_BYTES : self._ids_offset + stop * REQUEST_ID_BYTES]
        return UsageBatch(
            self.source,
            position,
            self._map[data + start * RECORD.size : data + stop * RECORD.size],
            self._read_callers(),
            ids if self._keeps_ids else b"",
            self.alive_until_s,
            is_dead,
        )

    def _read_callers(self) -> tuple[tuple[str, str], ...]:
        callers = []
        for number in range(SEGMENT_CALLERS):
            start = HEADER_BYTES + number * CALLER_BYTES
            text = self._map[start : start + CALLER_BYTES].rstrip(b"\0").decode("utf-8", "replace")
            if not text:
                break
            name, _, key_id = text.rpartition("|")
            callers.append((name, key_id))
        return tuple(callers)

    def _count_records(self) -> int:
        """Count the complete records: they come one after the other."""
        low, high, data = 0, SEGMENT_RECORDS, _data_offset()
        while low < high:
            middle = (low + high) // 2
            if self._map[data + middle * RECORD.size + STATE_OFFSET]:
                low = middle + 1
            else:
                high = middle
        return low

    @property
    def end(self) -> int:
        """Number after the last record."""
        return self.first + self.count

    def close(self, *, delete: bool) -> None:
        """Unmap it, and delete the file where all of it is counted."""
        self._map.close()
        if delete:
            self.path.unlink(missing_ok=True)


class Outbox:
    """The segments of this process."""

    def __init__(self, folder: Path, source: OutboxSource, max_bytes: int, *, keeps_ids: bool = False) -> None:
        """Make an outbox.

        Args:
            folder: of this node's outboxes.
            source: of it.
            max_bytes: of all segments; what comes while they are full is not counted, and that is logged.
            keeps_ids: whether requests' own ids are kept.
        """
        self.source, self._folder, self._keeps_ids = source, folder, keeps_ids
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        record_bytes = RECORD.size + (REQUEST_ID_BYTES if keeps_ids else 0)
        self._max_segments = max(2, max_bytes // (_data_offset() + SEGMENT_RECORDS * record_bytes))
        self.lost = 0
        self._segments: list[Segment] = []
        self._last = self._add_segment(0)

    def append(self, usage: RequestUsage, status: int) -> None:
        """Take what a request came to, before the last byte of its response is sent."""
        if self._last.append(usage, status):
            return
        if len(self._segments) >= self._max_segments:
            # Answers go on without the collector, and the bill is what suffers.
            if not self.lost:
                logger.error("the usage collector is away for too long: what is answered now is not counted")
            self.lost += 1
            return
        self._last = self._add_segment(self._last.end)
        self._last.append(usage, status)

    @property
    def end(self) -> int:
        """Number after the last record."""
        return self._last.end

    def beat(self) -> None:
        """Note that this process lives."""
        self._last.beat(time.time())

    def read(self, position: int, end: int, max_records: int) -> UsageBatch:
        """Read the records from a number on, of one segment."""
        segment = next((each for each in self._segments if position < each.end), self._last)
        return segment.read(position, min(end, segment.end, position + max_records), is_dead=False)

    def acknowledge(self, position: int) -> None:
        """Delete the segments before a number, which are counted."""
        while len(self._segments) > 1 and self._segments[0].end <= position:
            self._segments.pop(0).close(delete=True)
            self.lost = 0

    def close(self, position: int) -> None:
        """Close it; what is not counted up to the number stays for whoever comes next on this node."""
        for segment in self._segments:
            segment.close(delete=segment.end <= position)

    def _add_segment(self, first: int) -> Segment:
        path = self._folder / f"{self.source.id}-{first:012d}{SUFFIX}"
        segment = Segment(path, source=self.source, first=first, keeps_ids=self._keeps_ids)
        segment.beat(time.time())
        self._segments.append(segment)
        return segment


def open_dead_segments(folder: Path) -> list[Segment]:
    """Open the segments of processes of this machine that have ended, those of each in their order."""
    segments, alive = [], set()
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        outbox = path.name.partition("-")[0]
        if outbox in alive:
            continue
        try:
            segment = Segment(path)
        except (OSError, ValueError):
            # Another process has just counted and deleted it.
            continue
        if ProcessIdentity.parse(segment.source.process).has_ended():
            segments.append(segment)
        else:
            alive.add(outbox)
            segment.close(delete=False)
    return segments
