"""Request lookup: which model, version and bundle answered a request, by its id.

Today from the lines that an edge of this machine writes where SHOAL_EDGE__ACCESS_LOG is set.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster.local.running_cluster import temp_dir
from cluster.settings import Settings
from deployments.observability.access_log import BACKUPS, FILE_NAME


@dataclass(frozen=True)
class ServedRequest:
    """A request, and what answered it; what an answer's headers say.

    Attributes:
        request_id: as the answer's header x-request-id has it; "" where only the rest is known.
        model: name of the model or pipeline.
        version: that answered.
        digest: of the model's bundle, or the first digits of it; "" for a pipeline.
        nodes: NAME:VERSION of each model that a pipeline called.
        caller: whose key it came with; "" where that is not known.
        status: of the answer; 0 where that is not known.
        time_s: when it was answered, in seconds since the epoch; 0 where that is not known.
    """

    request_id: str = ""
    model: str = ""
    version: str = ""
    digest: str = ""
    nodes: tuple[str, ...] = ()
    caller: str = ""
    status: int = 0
    time_s: float = 0.0


def find_request(settings: Settings, request_id: str) -> ServedRequest | None:
    """Find a request that an edge of this machine has logged; the last one with this id, None for none."""
    # An id has no character that JSON escapes, so that few lines are parsed.
    needle = f'"request_id":"{request_id}"'
    found = None
    for line in _read_lines(temp_dir(settings.home) / "edge"):
        if needle in line:
            found = _parse_line(line) or found
    return found


def _read_lines(folder: Path) -> Iterator[str]:
    """The lines of the access log, oldest first."""
    names = [*(f"{FILE_NAME}.{number}" for number in range(BACKUPS, 0, -1)), FILE_NAME]
    for name in names:
        if (folder / name).is_file():
            with (folder / name).open(errors="replace") as stream:
                yield from stream


def _parse_line(line: str) -> ServedRequest | None:
    try:
        values = json.loads(line)
        fields = {
            # HAProxy writes a dash for what there is none of.
            name: "" if values.get(name) in (None, "-") else str(values[name])
            for name in ("request_id", "model", "version", "digest", "caller", "nodes")
        }
        nodes = tuple(filter(None, fields.pop("nodes").split(",")))
        return ServedRequest(**fields, nodes=nodes, status=int(values["status"]), time_s=values["time_ms"] / 1000)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
