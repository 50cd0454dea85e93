"""Warm processes and cold starts: which processes wait, and how long each phase of a start took."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deployments.models import preload
from deployments.models.cold_start import ColdStart
from deployments.scaling.warm_processes import list_warm


def test_a_process_that_has_ended_does_not_wait(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-S", "-c", ""])
    ended.wait()
    for pid in (os.getpid(), ended.pid):
        (tmp_path / str(pid)).touch()

    assert list_warm(tmp_path) == [os.getpid()]
    assert [file.name for file in tmp_path.iterdir()] == [str(os.getpid())]
    assert list_warm(tmp_path / "missing") == []


def test_a_process_of_another_kind_imports_nothing_of_a_model() -> None:
    code = f"import {preload.__name__}, sys; print({{'torch', 'ray', 'pydantic'}} & set(sys.modules))"
    environment = {name: value for name, value in os.environ.items() if name != preload.PRELOAD_VARIABLE}

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)

    assert done.stdout.strip() == "set()"


def test_the_phases_of_a_start_follow_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = time.time()
    monkeypatch.setattr(preload, "started_s", now_s - 0.8)
    monkeypatch.setattr(preload, "ended_s", now_s - 0.3)

    start = ColdStart()
    start.end_phase("imports")
    start.end_phase("load")

    assert not start.is_warm
    assert list(start.phases) == ["process", "imports", "load"]
    assert start.phases["imports"] == pytest.approx(0.5, abs=0.3)
    assert start.phases["process"] >= 0


def test_a_process_that_has_waited_has_its_imports_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preload, "started_s", time.time() - 100)
    monkeypatch.setattr(preload, "ended_s", time.time() - 90)

    start = ColdStart()

    assert start.is_warm
    assert start.phases == {"process": 0.0, "imports": 0.0}
