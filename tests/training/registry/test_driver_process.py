import os
import subprocess
import sys
from pathlib import Path

import pytest

from training.errors import UserError
from training.registry import driver_process
from training.registry.model_registry import Registry
from training.registry.runs import RunHistory
from training.settings import TrainingSettings


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(TrainingSettings(home=tmp_path / "home"))


def driven_by(code: str, settings: TrainingSettings) -> "subprocess.Popen[str]":
    """Another process that starts a run."""
    start = (
        "from training.registry.model_registry import Registry; from training.settings import TrainingSettings; import time; "
        f"Registry(TrainingSettings(home={str(settings.home)!r})).start_run('a-run', {{}}); print('on', flush=True); "
    )
    return subprocess.Popen([sys.executable, "-c", start + code], stdout=subprocess.PIPE, text=True)


def test_a_run_whose_driver_lives_is_not_taken_from_it(tmp_path: Path) -> None:
    settings = TrainingSettings(home=tmp_path / "home")
    other = driven_by("time.sleep(600)", settings)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "on\n"
        runs = RunHistory(Registry(settings))

        assert runs.find_run("a-run").status == "RUNNING"
        with pytest.raises(UserError, match=f"still runs, driven by process {other.pid}"):
            runs.find_resumable("a-run")
    finally:
        other.kill()
        other.wait()
    assert runs.find_run("a-run").status == "KILLED"
    assert runs.find_resumable("a-run").name == "a-run"


def test_of_another_machines_driver_nothing_is_known(registry: Registry) -> None:
    run_id = registry.start_run("a-run", {})
    registry.client.set_tag(run_id, "shoal.driver", "elsewhere 1 0")

    assert RunHistory(registry).find_run("a-run").status == "RUNNING"
    assert RunHistory(registry).find_resumable("a-run").name == "a-run"


def test_a_process_number_that_came_again_is_another_process() -> None:
    host, number, started = driver_process.this().split()

    assert driver_process.living(driver_process.this()) == os.getpid()
    assert driver_process.gone(f"{host} {number} {float(started) - 1000}")
