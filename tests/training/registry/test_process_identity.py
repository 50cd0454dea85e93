import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from training.errors import UserError
from training.registry.model_registry import Registry
from training.registry.process_identity import ProcessIdentity
from training.registry.runs import RunHistory
from training.settings import TrainingSettings


@pytest.fixture
def registry(registry_settings: TrainingSettings) -> Registry:
    return Registry(registry_settings)


def start_driver(code: str, settings: TrainingSettings) -> "subprocess.Popen[str]":
    """Start another process that starts a run, then runs the code."""
    start_run = (
        "import time; from training import Registry; from training.settings import TrainingSettings; "
        f"Registry(TrainingSettings(home={str(settings.home)!r})).start_run('a-run', {{}}); "
        "print('started', flush=True); "
    )
    return subprocess.Popen([sys.executable, "-c", start_run + code], stdout=subprocess.PIPE, text=True)


def test_a_run_whose_driver_is_alive_cannot_be_resumed_by_another(tmp_path: Path) -> None:
    settings = TrainingSettings(home=tmp_path / "home")
    driver = start_driver("time.sleep(600)", settings)
    try:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "started\n"
        runs = RunHistory(Registry(settings))

        assert runs.find_run("a-run").status == "RUNNING"
        with pytest.raises(UserError, match=f"still runs, driven by process {driver.pid}"):
            runs.find_resumable("a-run")
    finally:
        driver.kill()
        driver.wait()
    assert runs.find_run("a-run").status == "KILLED"
    assert runs.find_resumable("a-run").name == "a-run"


def test_a_driver_on_another_machine_counts_neither_as_alive_nor_as_ended(registry: Registry) -> None:
    run_id = registry.start_run("a-run", {})
    registry.client.set_tag(run_id, "shoal.driver", "elsewhere 1 0")

    assert RunHistory(registry).find_run("a-run").status == "RUNNING"
    assert RunHistory(registry).find_resumable("a-run").name == "a-run"
    assert not ProcessIdentity.parse("elsewhere 1 0").is_alive()
    assert not ProcessIdentity.parse("elsewhere 1 0").has_ended()


def test_a_process_stays_the_same_when_the_clock_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    before = ProcessIdentity.current()
    # What psutil.Process.create_time() adds to the ticks since boot; it moves with the clock.
    boot_s = psutil.boot_time()
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: boot_s + 3600)

    assert before.is_alive()
    assert ProcessIdentity.parse(str(before)) == ProcessIdentity.current()


def test_a_reused_process_id_is_another_process() -> None:
    current = ProcessIdentity.current()
    earlier = replace(current, started=f"{current.started}0")

    assert current.pid == os.getpid()
    assert current.is_alive()
    assert not current.has_ended()
    assert not earlier.is_alive()
    assert earlier.has_ended()


def test_a_driver_process_survives_being_written_down() -> None:
    assert ProcessIdentity.parse(str(ProcessIdentity.current())) == ProcessIdentity.current()
