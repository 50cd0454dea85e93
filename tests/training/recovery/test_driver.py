import os
import subprocess
import sys
from pathlib import Path

import pytest

from training.errors import Mistake
from training.recovery import driver
from training.registry import Registry
from training.runs import Runs
from training.settings import TrainingSettings


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(TrainingSettings(home=tmp_path / "home"))


def driven_by(code: str, settings: TrainingSettings) -> "subprocess.Popen[str]":
    """Another process that starts a run."""
    start = (
        "from training.registry import Registry; from training.settings import TrainingSettings; import time; "
        f"Registry(TrainingSettings(home={str(settings.home)!r})).start_run('a-run', {{}}); print('on', flush=True); "
    )
    return subprocess.Popen([sys.executable, "-c", start + code], stdout=subprocess.PIPE, text=True)


def test_a_run_whose_driver_lives_is_not_taken_from_it(tmp_path: Path) -> None:
    settings = TrainingSettings(home=tmp_path / "home")
    other = driven_by("time.sleep(600)", settings)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "on\n"
        runs = Runs(Registry(settings))

        assert runs.find("a-run").status == "RUNNING"
        with pytest.raises(Mistake, match=f"still runs, driven by process {other.pid}"):
            runs.unfinished("a-run")
    finally:
        other.kill()
        other.wait()
    assert runs.find("a-run").status == "KILLED"
    assert runs.unfinished("a-run").name == "a-run"


def test_of_another_machines_driver_nothing_is_known(registry: Registry) -> None:
    run_id = registry.start_run("a-run", {})
    registry.client.set_tag(run_id, "shoal.driver", "elsewhere 1 0")

    assert Runs(registry).find("a-run").status == "RUNNING"
    assert Runs(registry).unfinished("a-run").name == "a-run"


def test_a_process_number_that_came_again_is_another_process() -> None:
    host, number, started = driver.this().split()

    assert driver.living(driver.this()) == os.getpid()
    assert driver.gone(f"{host} {number} {float(started) - 1000}")
