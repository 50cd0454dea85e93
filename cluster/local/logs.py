"""Logs: what replicas, HAProxy, Serve's own processes and jobs of this node wrote, read from Ray's session folder."""

import re
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from cluster.local.running_cluster import temp_dir
from cluster.settings import Settings
from deployments.edge.state import CONTROL, GRPC
from deployments.observability.access_log import FILE_NAME as ACCESS_LOG
from deployments.observability.json_logs import render_line
from training.errors import UserError

POLL_INTERVAL_S = 0.3

PrintLine = Callable[[str, str], None]
"""Called with a log's short name and one of its lines."""


def read_logs(settings: Settings, name: str, lines: int, print_line: PrintLine) -> int:
    """Print the last lines of every log of a name; returns how many there were.

    Args:
        settings: of the cluster.
        name: a model or pipeline, a job's id, or edge, control, controller.
        lines: of each log.
        print_line: is called with each line.

    Raises:
        UserError: there is no such log on this node.
    """
    count = 0
    for file in _require_logs(settings, name):
        with file.open(errors="replace") as stream:
            for line in deque(stream, maxlen=lines):
                print_line(file.stem, render_line(line.rstrip("\n")))
                count += 1
    return count


def follow_logs(settings: Settings, name: str, print_line: PrintLine) -> None:
    """Print lines as they are written, also to logs that appear later, until interrupted."""
    positions = {file: file.stat().st_size for file in _require_logs(settings, name)}
    while True:
        for file in _find_logs(settings, name):
            with file.open(errors="replace") as stream:
                # A file that was rotated begins anew.
                position = positions.get(file, 0)
                stream.seek(position if position <= file.stat().st_size else 0)
                # Only whole lines: the rest of the last one is yet to come.
                while (line := stream.readline()).endswith("\n"):
                    positions[file] = stream.tell()
                    print_line(file.stem, render_line(line.rstrip("\n")))
        time.sleep(POLL_INTERVAL_S)


def _require_logs(settings: Settings, name: str) -> list[Path]:
    logs = _find_logs(settings, name)
    if not logs:
        names = ", ".join(_list_names(settings)) or "none; no cluster runs"
        raise UserError(f"no logs of {name!r} on this machine; there are: {names}")
    return logs


def _session(settings: Settings) -> Path:
    return temp_dir(settings.home) / "ray" / "session_latest" / "logs"


def _find_logs(settings: Settings, name: str) -> list[Path]:
    folder = _session(settings)
    if name == "edge":
        edge = temp_dir(settings.home) / "edge"
        files = [*folder.glob("serve/replica_shoal.edge*.log"), edge / "haproxy.log", edge / ACCESS_LOG]
        files = [file for file in files if file.is_file()]
    elif name == "controller":
        files = list(folder.glob("serve/controller_*.log"))
    elif name.startswith("raysubmit_"):
        files = list(folder.glob(f"job-driver-{name}.log"))
    else:
        application = {"control": CONTROL, "grpc": GRPC}.get(name, name)
        pattern = re.compile(rf"replica_{re.escape(application)}_(replica|control|grpc)_\w+\.log")
        files = [file for file in folder.glob("serve/replica_*.log") if pattern.fullmatch(file.name)]
    return sorted(files, key=lambda file: (file.stat().st_mtime, file.name))


def _list_names(settings: Settings) -> list[str]:
    folder = _session(settings)
    names = set()
    for file in folder.glob("serve/replica_*.log"):
        match = re.fullmatch(r"replica_(.+)_(replica|control|grpc)_\w+\.log", file.name)
        if match:
            names.add(match[1].removeprefix("shoal."))
    names |= {file.stem.removeprefix("job-driver-") for file in folder.glob("job-driver-*.log")}
    if folder.is_dir():
        names |= {"edge", "controller"}
    return sorted(names)
