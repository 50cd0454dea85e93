"""Last words: what a worker that died had printed to its standard error, from the log that Ray keeps of each process.

Train walk: driver.py -> [last_words.py]
Ray does not report a dead process's exit code; the fault handler that it sets names the signal of a crash there.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.util.state import get_log

from training.errors import ServiceError
from training.worker.progress_channel import Message

FETCH_TIMEOUT_S = 3
MAX_CHARACTERS = 200
# What Ray, Ray Train and libraries of ours write there themselves.
_NOISE = re.compile(
    r":(job_id|actor_name|task_name):|Reporting training|Checkpoint success|Started training|\[codecarbon"
)
_FATAL = re.compile(r"Fatal Python error: .*|.*(?:terminate called|what\(\):|Killed|Aborted).*")


class LastWords:
    """Knows each worker's process from its first message."""

    def __init__(self) -> None:
        self._processes: dict[int, tuple[str, int]] = {}
        self._words = ""

    def observe(self, message: Message) -> Message:
        """Note a worker's process, or add to the message of a death what that process said last."""
        if message["kind"] in ("loading", "started"):
            self._processes[message["rank"]] = (message["node_id"], message["pid"])
        if message["kind"] == "worker_failed" and message.get("has_died"):
            node_id, pid = self._processes.get(message["rank"], ("", 0))
            self._words = choose_last_words(_fetch_log(node_id, pid)) if pid else ""
            if self._words:
                return message | {"reason": f"{message['reason']}; its last words: {self._words!r}"}
        return message

    @contextmanager
    def explain_failure(self) -> Iterator[None]:
        """Add what the worker said that died last to the error that ends the run."""
        try:
            yield
        except ServiceError as error:
            if not self._words or self._words in str(error):
                raise
            raise ServiceError(f"{error}; the last words of the worker that died: {self._words!r}") from error


def choose_last_words(lines: list[str]) -> str:
    """The line that says why the process died, else its last one; empty if it said nothing."""
    said = [line.strip() for line in lines if line.strip() and not _NOISE.search(line)]
    fatal = [line for line in said if _FATAL.fullmatch(line)]
    return (fatal or said or [""])[-1][:MAX_CHARACTERS]


def _fetch_log(node_id: str, pid: int) -> list[str]:
    try:
        chunks: Any = get_log(node_id=node_id, pid=pid, suffix="err", tail=200, timeout=FETCH_TIMEOUT_S)
        return "".join(chunks).splitlines()
    except Exception:  # the log is gone with its machine, or the dashboard does not answer
        return []
