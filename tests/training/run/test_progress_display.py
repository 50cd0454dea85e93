"""What a run shows: lines where there is no terminal, a live bar where there is one."""

import io
import re
import time
from typing import Any

import pytest
from rich.console import Console

from training.recipe.load import load_recipe
from training.run.progress_display import ProgressDisplay

STARTED = {"kind": "started", "rank": 0, "at_s": 0.0, "epoch": 0, "step": 0, "world_size": 2}
PROGRESS = {"kind": "progress", "epoch": 0, "step": 5, "steps": 10, "loss": 0.5, "rows_per_s": 100.0}


def shown(*messages: dict[str, Any]) -> list[str]:
    console = Console(width=200, force_terminal=False)
    with console.capture() as capture, ProgressDisplay(load_recipe("iris"), console) as display:
        for message in messages:
            display.show({"rank": 0, "at_s": 0.0} | message)
    return capture.get().splitlines()


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ({"kind": "scanning", "rows": 3000, "done": True}, "3,000 rows scanned, all valid"),
        ({"kind": "data_warning", "text": "column 'id' ..."}, "warning: column 'id' ..."),
        (
            {"kind": "preflight_passed", "net_input": "4 numbers a row: length, color (3 categories)"},
            "the net gets 4 numbers a row: length, color (3 categories)",
        ),
        (STARTED | {"step": 50}, "resumed at step 50 with 2 worker(s)"),
        (
            {"kind": "worker_failed", "rank": 1, "reason": "odd"},
            "worker 1 failed (odd); resuming from the last checkpoint",
        ),
        (
            {"kind": "waiting_for_resources", "resource": "CPU", "required": 2, "available": 1.0},
            "waiting for resources: a CPU for each of 2 worker(s), 1 available in the cluster; "
            "end this run and take fewer workers (--workers 1)",
        ),
        (
            {
                "kind": "waiting_for_resources",
                "resource": "CPU",
                "required": 1,
                "available": 0.0,
                "held": {"iris": 1.0, "digits-cnn": 4.0},
            },
            "waiting for resources: a CPU for each of 1 worker(s), 0 available in the cluster "
            "(deployed: iris 1 CPU, digits-cnn 4 CPU); `shoal undeploy digits-cnn`",
        ),
        ({"kind": "preemption_notice", "step": 7}, "a node will be preempted; saving a checkpoint at step 7"),
        (
            {"kind": "interrupted", "run": "iris-1"},
            "interrupted; resume from its last checkpoint with `shoal train --resume iris-1`",
        ),
        (
            {"kind": "report", "metrics": {"epoch": 3, "loss": 0.5, "validation_accuracy": 0.75}},
            "epoch 3/30  loss 0.5000  validation accuracy 0.7500",
        ),
        ({"kind": "report", "metrics": {"test_accuracy": 0.9, "best_epoch": 2}}, "test accuracy 0.9000, best epoch 2"),
    ],
)
def test_a_message_is_one_line(message: dict[str, Any], line: str) -> None:
    assert shown(message) == [f"iris: {line}"]


@pytest.mark.parametrize(
    "message",
    [
        STARTED,
        PROGRESS,
        {"kind": "scanning", "rows": 10, "done": False},
        {"kind": "preemption_notice", "rank": 1, "step": 7},
        {"kind": "report", "metrics": {"epoch": 1, "step": 5, "validation_accuracy": 0.5}},
    ],
)
def test_a_message_for_the_live_bar_prints_nothing(message: dict[str, Any]) -> None:
    assert shown(message) == []


def test_a_repeated_preemption_notice_is_shown_once_per_start() -> None:
    notice = {"kind": "preemption_notice", "step": 7}

    lines = shown(notice, notice, STARTED, notice)

    assert len(lines) == 2


def test_a_terminal_shows_epoch_loss_and_each_workers_speed() -> None:
    console = Console(file=io.StringIO(), width=200, force_terminal=True)

    with ProgressDisplay(load_recipe("iris"), console) as display:
        for message in (STARTED, PROGRESS, PROGRESS | {"rank": 1}):
            display.show({"rank": 0, "at_s": time.time()} | message)

    screen = console.file.getvalue()  # type: ignore[attr-defined]
    assert "iris: epoch 1/30" in screen
    assert "5/10" in screen
    assert "loss 0.5000" in screen
    assert "worker 0: 100 rows/s  worker 1: 100 rows/s" in re.sub(r"\x1b\[[0-9;]*m", "", screen)
