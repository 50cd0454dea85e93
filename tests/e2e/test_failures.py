"""What dies while a run trains, and what becomes of the run: workers, the driver, the store, the recipe's own code."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from cluster.local.record import Cluster, find_cluster
from cluster.settings import Settings
from tests.conftest import Shoal
from tests.e2e.slow_run import EPOCHS, STEPS_PER_EPOCH, SlowRun, same, weights
from training.registry.model_registry import Registry
from training.registry.runs import RunHistory

STEPS = EPOCHS * STEPS_PER_EPOCH


@pytest.fixture(scope="module")
def registry(settings: Settings, cluster: Cluster) -> Registry:
    return Registry(settings)


@pytest.fixture
def run(home: Path, cluster: Cluster, tmp_path: Path) -> Iterator[SlowRun]:
    made = SlowRun(home, tmp_path)
    yield made
    if made.process and made.process.poll() is None:
        made.process.terminate()
        made.process.wait(60)
    shutil.rmtree(made.kept, ignore_errors=True)


@pytest.fixture(scope="module")
def whole(home: Path, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights of a run that nothing happened to."""
    run = SlowRun(home, tmp_path_factory.mktemp("whole"))
    run.pace(0)
    run.start()
    assert run.end() == 0, run.complaint
    return weights(registry)


# (rank, step): before the first checkpoint and inside an epoch; at an epoch's end and when all steps are done.
MOMENTS = {"early": [(1, 0), (0, 75)], "late": [(1, 2 * STEPS_PER_EPOCH - 1), (0, STEPS - 1)]}


@pytest.mark.parametrize("when", ["early", pytest.param("late", marks=pytest.mark.soak)])
def test_workers_may_be_killed_at_any_step_and_the_weights_are_the_same(
    run: SlowRun, registry: Registry, whole: dict[str, torch.Tensor], when: str
) -> None:
    before, moments = registry.list_versions("slow")[0].version, MOMENTS[when]
    run.start()
    for rank, step in moments:
        os.kill(run.at(step, rank), signal.SIGKILL)

    assert run.end() == 0, run.complaint
    assert run.said.count("failed (") == len(moments)
    # A death at the first step left nothing to go on from.
    left = [step for _, step in moments if step]
    assert len(run.resumed_at) == len(left)
    assert all(0 < at <= step + 1 for at, step in zip(run.resumed_at, left, strict=True))
    assert registry.list_versions("slow")[0].version == before + 1
    assert same(weights(registry), whole)
    # New workers take a while to start; that is no lack of room.
    assert "waiting for resources" not in run.said


def versions(registry: Registry) -> list[int]:
    return [version.version for version in registry.list_versions("slow")] if "slow" in registry.list_models() else []


def status(registry: Registry, name: str) -> str:
    return RunHistory(registry).find_run(name).status


def driver(registry: Registry, name: str) -> int:
    driver_process = RunHistory(registry).find_run(name).driver
    assert driver_process is not None
    return driver_process.pid


@pytest.mark.soak
def test_drivers_may_be_killed_and_their_run_goes_on(
    run: SlowRun, shoal: Shoal, registry: Registry, whole: dict[str, torch.Tensor]
) -> None:
    before = registry.list_versions("slow")[0].version
    run.start()
    run.at(130)
    assert run.process is not None
    name = run.name
    run.process.kill()
    run.assert_no_worker_lives()
    # Two at the most beside the last one; an epoch's has a score, which those inside an epoch have not.
    assert STEPS_PER_EPOCH in run.steps_kept()
    assert len(run.steps_kept()) <= 3
    assert status(registry, name) == "KILLED"
    assert re.search(rf"{name} +KILLED", shoal("runs", env={"COLUMNS": "200"}).stdout)

    run.resume("--submit")
    run.at(200)
    # Or it may be done before the next command has started.
    run.pace(60)
    # One driver at a time.
    other = shoal("train", "--resume", name)
    assert other.returncode == 2
    assert f"{name} still runs" in other.stderr
    # The job's driver; the command only shows what that says.
    os.kill(driver(registry, name), signal.SIGKILL)
    assert run.end() == 1
    run.assert_no_worker_lives()
    (first,) = run.resumed_at
    assert STEPS_PER_EPOCH <= first <= 131

    run.pace(0.02)
    run.resume()
    run.at(240)
    run.process.terminate()
    assert run.end() == 130
    assert f"resume from its last checkpoint with `shoal train --resume {name}`" in run.said
    assert run.complaint == "error: interrupted\n"
    assert status(registry, name) == "KILLED"
    (second,) = run.resumed_at
    assert first < second <= 203

    run.resume()
    assert run.end() == 0, run.complaint
    (third,) = run.resumed_at
    assert second < third <= 241
    assert status(registry, name) == "FINISHED"
    assert registry.list_versions("slow")[0].version == before + 1
    assert same(weights(registry), whole)
    again = shoal("train", "--resume", name)
    assert again.returncode == 2
    assert f"{name} has finished" in again.stderr


@pytest.fixture
def small_store(run: SlowRun) -> Iterator[Path]:
    """A store of a few megabytes."""
    run.kept.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(run.kept)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a file system")
    yield run.kept
    subprocess.run(["umount", "--lazy", str(run.kept)], check=True)


@pytest.mark.soak
def test_a_full_store_ends_the_run_with_one_line_and_keeps_what_it_has(
    run: SlowRun, small_store: Path, registry: Registry, whole: dict[str, torch.Tensor]
) -> None:
    run.start()
    run.at(STEPS_PER_EPOCH + 20)
    filler = small_store / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while shutil.disk_usage(small_store).free:
            file.write(bytes(4096))

    assert run.end() == 1
    assert re.fullmatch(
        r"error: training failed: a checkpoint cannot be stored in \S+: .*No space left on device.*; earlier ones are "
        r"kept: free some space or repair the store, then resume from its last checkpoint with "
        r"`shoal train --resume slow-\S+`\n",
        run.complaint,
    )
    assert "failed (" not in run.said
    run.assert_no_worker_lives()

    filler.unlink()
    assert status(registry, run.name) == "FAILED"
    run.resume()
    assert run.end() == 0, run.complaint
    assert run.resumed_at[0] >= STEPS_PER_EPOCH
    assert same(weights(registry), whole)


@pytest.mark.parametrize(
    ("fail", "tries", "said"),
    [
        # One try is enough to know: tests/training/recovery/test_failures.py judges it every day, without a cluster.
        pytest.param(
            "ValueError",
            1,
            r"ValueError: this row is odd \(slow.py, line \d+\) after step 50; fix it",
            marks=pytest.mark.soak,
        ),
        ("RuntimeError", 2, r"RuntimeError: this row is odd \(slow.py, line \d+\) at step 50, twice; fix it"),
        # tests/training/test_pulse.py sees the loss end a run every day, without a cluster.
        pytest.param(
            "nan",
            1,
            r"the loss is not finite at step 51; lower optimizer.lr",
            marks=pytest.mark.soak,
        ),
    ],
)
def test_an_error_that_would_come_again_ends_the_run(
    run: SlowRun, registry: Registry, fail: str, tries: int, said: str
) -> None:
    before = versions(registry)
    run.start(fail=fail, fail_at=50)

    assert run.end() == 1
    assert re.search(said, run.complaint)
    assert run.complaint.count("\n") == 1
    assert run.said.count("failed (") == tries - 1
    run.assert_no_worker_lives()
    assert len(set((run.folder / "pids").read_text().split())) == 2 * tries
    assert status(registry, run.name) == "FAILED"
    assert versions(registry) == before


@pytest.mark.soak
def test_a_run_without_room_says_so_and_can_be_interrupted(run: SlowRun, registry: Registry) -> None:
    run.start("--set", "batch_size=90", "--workers", "90")
    run.wait_for("waiting for resources: a CPU for each of 90 worker(s)")

    assert run.process is not None
    run.process.send_signal(signal.SIGINT)

    assert run.end() == 130
    assert not (run.folder / "pids").exists()


def test_a_cluster_that_a_killed_run_left_is_none(settings: Settings, cluster: Cluster) -> None:
    state = settings.home / "run" / "cluster.json"
    before = state.read_text()
    ended = subprocess.Popen(["true"])
    ended.wait()
    try:
        state.write_text(json.dumps(asdict(cluster) | {"run_pid": os.getpid()}))
        found = find_cluster(settings)
        state.write_text(json.dumps(asdict(cluster) | {"run_pid": ended.pid}))
        left = find_cluster(settings)
    finally:
        state.write_text(before)

    assert found is not None
    assert left is None
