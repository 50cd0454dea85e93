"""A worker that stands still says where; one that waits for the others says nothing."""

import threading
import time
from collections.abc import Callable
from typing import Any

from training.worker import stall_watch
from training.worker.stall_watch import StallWatch


class Recorder:
    """A sender that keeps what it is told to send."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def send(self, kind: str, **values: float | str) -> None:
        self.messages.append({"kind": kind, **values})


def watch(work: Callable[[StallWatch], None], stall_s: float = 0.2) -> list[dict[str, Any]]:
    recorder = Recorder()
    with StallWatch(recorder, stall_s) as watcher:  # type: ignore[arg-type]
        work(watcher)
    return recorder.messages


def sleep_in_own_code(watcher: StallWatch) -> None:
    time.sleep(1.1)


def test_a_stall_is_told_with_its_line_and_less_often_as_it_lasts() -> None:
    messages = watch(sleep_in_own_code)

    assert [message["kind"] for message in messages] == ["stalled"] * len(messages)
    assert 2 <= len(messages) <= 3
    line = sleep_in_own_code.__code__.co_firstlineno + 1
    assert messages[0]["location"] == f"test_stall_watch.py, line {line}, in sleep_in_own_code"


def test_steps_are_no_stall() -> None:
    def work(watcher: StallWatch) -> None:
        for _ in range(20):
            time.sleep(0.05)
            watcher.record_step()

    assert watch(work, stall_s=0.5) == []


def test_waiting_for_other_workers_is_not_told() -> None:
    def work(watcher: StallWatch) -> None:
        ended = threading.Event()
        # As in a collective: the innermost frames are of torch.distributed.
        threading.Timer(0.8, ended.set).start()
        wait_in_collective(ended)

    assert watch(work) == []


def wait_in_collective(ended: threading.Event) -> None:
    code = compile("ended.wait()", f"{stall_watch._COLLECTIVES}/distributed_c10d.py", "exec")
    exec(code, {"ended": ended})
