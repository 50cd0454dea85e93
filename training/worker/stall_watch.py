"""Stall watch: tells when a worker makes no step for long, and at which line of whose code it stands.

Train walk: loop.py -> [stall_watch.py] -> progress_channel.py
All workers wait for the slowest one at every step, so a run in which one sleeps looks as if all did. A worker that
waits for the others says nothing.
"""

import sys
import threading
import time
import traceback
from pathlib import Path
from types import TracebackType

import torch

from training.source_location import select_own_frames
from training.worker.progress_channel import ProgressSender

STALL_S = 30.0
"""Seconds without a step after which it is told, and again after twice, four times ... as long."""

_TORCH = Path(torch.__file__).parent
_COLLECTIVES = str(_TORCH / "distributed")


class StallWatch:
    """Watches the thread that makes it; use as a context manager, and call `record_step` at every step."""

    def __init__(self, sender: ProgressSender, stall_s: float = STALL_S) -> None:
        self._sender, self._stall_s = sender, stall_s
        self._thread_id = threading.get_ident()
        self._stepped_s, self._told_s = time.monotonic(), 0.0
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="stall-watch", daemon=True)

    def __enter__(self) -> "StallWatch":
        self._watcher.start()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._watcher.join()

    def record_step(self) -> None:
        """Note that a step was made."""
        self._stepped_s, self._told_s = time.monotonic(), 0.0

    def _watch(self) -> None:
        while not self._ended.wait(self._stall_s / 10):
            stalled_s = time.monotonic() - self._stepped_s
            if stalled_s < max(self._stall_s, 2 * self._told_s):
                continue
            location = find_location(self._thread_id)
            if location:
                self._told_s = stalled_s
                self._sender.send("stalled", seconds=round(stalled_s), location=location)


def find_location(thread_id: int) -> str | None:
    """Where a thread stands: the innermost line that is not a library's; None where it waits for other workers."""
    frame = sys._current_frames().get(thread_id)
    if frame is None:
        return None
    stack = traceback.extract_stack(frame)
    innermost = stack[-1]
    own = select_own_frames(stack)
    # In a backward pass nobody's code is on the stack, and it is there that gradients of the others are waited for.
    is_waiting = any(f.filename.startswith(_COLLECTIVES) for f in stack[-8:]) or (
        not own and Path(innermost.filename).is_relative_to(_TORCH)
    )
    if is_waiting:
        return None
    shown = own[-1] if own else innermost
    return f"{Path(shown.filename).name}, line {shown.lineno}, in {shown.name}"
