"""Failures during a training run: of workers, of the driver, of the checkpoint storage, of the recipe's own code."""

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

from cluster.local.running_cluster import Cluster, find_cluster
from cluster.settings import Settings
from tests.conftest import ShoalCli
from tests.e2e.slow_run import EPOCHS, STEPS_PER_EPOCH, SlowRun, are_identical, load_weights
from training.registry.model_registry import Registry
from training.registry.runs import RunHistory

STEPS = EPOCHS * STEPS_PER_EPOCH


@pytest.fixture(scope="module")
def registry(settings: Settings, cluster: Cluster) -> Registry:
    return Registry(settings)


@pytest.fixture
def run(home: Path, cluster: Cluster, tmp_path: Path) -> Iterator[SlowRun]:
    slow_run = SlowRun(home, tmp_path)
    yield slow_run
    if slow_run.process and slow_run.process.poll() is None:
        slow_run.process.terminate()
        slow_run.process.wait(60)
    shutil.rmtree(slow_run.checkpoints_folder, ignore_errors=True)


@pytest.fixture(scope="module")
def reference_weights(
    home: Path, registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, torch.Tensor]:
    """The weights of a run without failures."""
    run = SlowRun(home, tmp_path_factory.mktemp("reference"))
    run.set_step_time(0)
    run.start()
    assert run.wait() == 0, run.stderr
    return load_weights(registry)


# (rank, step) of each death: within an epoch; before the first checkpoint, at an epoch's end, and after all steps.
DEATHS = {"once": [(0, 75)], "again": [(1, 0), (1, 2 * STEPS_PER_EPOCH - 1), (0, STEPS - 1)]}


@pytest.mark.parametrize("case", ["once", pytest.param("again", marks=pytest.mark.soak)])
def test_workers_may_be_killed_at_any_step_and_the_weights_are_the_same(
    run: SlowRun, registry: Registry, reference_weights: dict[str, torch.Tensor], case: str
) -> None:
    before, deaths = registry.list_versions("slow")[0].version, DEATHS[case]
    run.start()
    for rank, step in deaths:
        os.kill(run.wait_for_step(step, rank), signal.SIGKILL)

    assert run.wait() == 0, run.stderr
    assert run.stdout.count("failed (") == len(deaths)
    # A death at the first step leaves no checkpoint to resume from.
    death_steps = [step for _, step in deaths if step]
    assert len(run.resumed_steps) == len(death_steps)
    assert all(0 < resumed <= death + 1 for resumed, death in zip(run.resumed_steps, death_steps, strict=True))
    assert registry.list_versions("slow")[0].version == before + 1
    assert are_identical(load_weights(registry), reference_weights)
    # Starting new workers takes a while, which is no lack of resources.
    assert "waiting for resources" not in run.stdout


def list_version_numbers(registry: Registry) -> list[int]:
    return [version.version for version in registry.list_versions("slow")] if "slow" in registry.list_models() else []


def find_status(registry: Registry, name: str) -> str:
    return RunHistory(registry).find_run(name).status


def find_driver_pid(registry: Registry, name: str) -> int:
    driver_process = RunHistory(registry).find_run(name).driver
    assert driver_process is not None
    return driver_process.pid


@pytest.mark.soak
def test_drivers_may_be_killed_and_their_run_is_resumed(
    run: SlowRun, shoal: ShoalCli, registry: Registry, reference_weights: dict[str, torch.Tensor]
) -> None:
    before = registry.list_versions("slow")[0].version
    run.start()
    run.wait_for_step(130)
    assert run.process is not None
    name = run.name
    run.process.kill()
    run.assert_no_live_workers()
    # The last one and at most two others; only those at the end of an epoch have a score.
    assert STEPS_PER_EPOCH in run.list_checkpoint_steps()
    assert len(run.list_checkpoint_steps()) <= 3
    assert find_status(registry, name) == "KILLED"
    assert re.search(rf"{name} +KILLED", shoal("runs", env={"COLUMNS": "200"}).stdout)

    run.resume("--submit")
    run.wait_for_step(200)
    # It must not finish before the next command has started.
    run.set_step_time(60)
    # A run has one driver at a time.
    other = shoal("train", "--resume", name)
    assert other.returncode == 2
    assert f"{name} still runs" in other.stderr
    # The driver is the job's process; the command only follows its log.
    os.kill(find_driver_pid(registry, name), signal.SIGKILL)
    assert run.wait() == 1
    run.assert_no_live_workers()
    (first,) = run.resumed_steps
    assert STEPS_PER_EPOCH <= first <= 131

    run.set_step_time(0.02)
    run.resume()
    run.wait_for_step(240)
    run.process.terminate()
    assert run.wait() == 130
    assert f"resume from its last checkpoint with `shoal train --resume {name}`" in run.stdout
    assert run.stderr == "error: interrupted\n"
    assert find_status(registry, name) == "KILLED"
    (second,) = run.resumed_steps
    assert first < second <= 203

    run.resume()
    assert run.wait() == 0, run.stderr
    (third,) = run.resumed_steps
    assert second < third <= 241
    assert find_status(registry, name) == "FINISHED"
    assert registry.list_versions("slow")[0].version == before + 1
    assert are_identical(load_weights(registry), reference_weights)
    again = shoal("train", "--resume", name)
    assert again.returncode == 2
    assert f"{name} has finished" in again.stderr


@pytest.fixture
def small_checkpoints_folder(run: SlowRun) -> Iterator[Path]:
    """Checkpoint storage of 4 MB."""
    run.checkpoints_folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(run.checkpoints_folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a file system")
    yield run.checkpoints_folder
    subprocess.run(["umount", "--lazy", str(run.checkpoints_folder)], check=True)


@pytest.mark.soak
def test_full_storage_ends_the_run_with_one_line_and_keeps_its_checkpoints(
    run: SlowRun, small_checkpoints_folder: Path, registry: Registry, reference_weights: dict[str, torch.Tensor]
) -> None:
    run.start()
    run.wait_for_step(STEPS_PER_EPOCH + 20)
    filler = small_checkpoints_folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while shutil.disk_usage(small_checkpoints_folder).free:
            file.write(bytes(4096))

    assert run.wait() == 1
    assert re.fullmatch(
        r"error: training failed: a checkpoint cannot be stored in \S+: .*No space left on device.*; earlier ones are "
        r"kept: free some space or repair the store, then resume from its last checkpoint with "
        r"`shoal train --resume slow-\S+`\n",
        run.stderr,
    )
    assert "failed (" not in run.stdout
    run.assert_no_live_workers()

    filler.unlink()
    assert find_status(registry, run.name) == "FAILED"
    run.resume()
    assert run.wait() == 0, run.stderr
    assert run.resumed_steps[0] >= STEPS_PER_EPOCH
    assert are_identical(load_weights(registry), reference_weights)


@pytest.mark.parametrize(
    ("error", "attempts", "message"),
    [
        ("ValueError", 1, r"ValueError: invalid row \(slow.py, line \d+\) after step 50; fix it"),
        # When it is retried, tests/training/run/test_failure_policy.py checks without a cluster.
        pytest.param(
            "RuntimeError",
            2,
            r"RuntimeError: invalid row \(slow.py, line \d+\) at step 50, twice; fix it",
            marks=pytest.mark.soak,
        ),
        # tests/training/worker/test_progress_sync.py checks this without a cluster.
        pytest.param(
            "nan",
            1,
            r"the loss is not finite at step 51; lower optimizer.lr",
            marks=pytest.mark.soak,
        ),
    ],
)
def test_an_error_that_would_recur_ends_the_run(
    run: SlowRun, registry: Registry, error: str, attempts: int, message: str
) -> None:
    before = list_version_numbers(registry)
    run.start(error=error, error_step=50)

    assert run.wait() == 1
    assert re.search(message, run.stderr)
    assert run.stderr.count("\n") == 1
    assert run.stdout.count("failed (") == attempts - 1
    run.assert_no_live_workers()
    assert len(set((run.folder / "pids").read_text().split())) == 2 * attempts
    assert find_status(registry, run.name) == "FAILED"
    assert list_version_numbers(registry) == before


@pytest.mark.soak
def test_a_run_that_waits_for_resources_says_so_and_can_be_interrupted(run: SlowRun, registry: Registry) -> None:
    run.start("--set", "batch_size=90", "--workers", "90")
    run.wait_for_output("waiting for resources: a CPU for each of 90 worker(s)")

    assert run.process is not None
    run.process.send_signal(signal.SIGINT)

    assert run.wait() == 130
    assert not (run.folder / "pids").exists()


def test_the_cluster_of_a_killed_run_counts_as_not_running(settings: Settings, cluster: Cluster) -> None:
    record = settings.home / "run" / "cluster.json"
    before = record.read_text()
    ended = subprocess.Popen(["true"])
    ended.wait()
    try:
        record.write_text(json.dumps(asdict(cluster) | {"run_pid": os.getpid()}))
        cluster_of_live_run = find_cluster(settings)
        record.write_text(json.dumps(asdict(cluster) | {"run_pid": ended.pid}))
        cluster_of_dead_run = find_cluster(settings)
    finally:
        record.write_text(before)

    assert cluster_of_live_run is not None
    assert cluster_of_dead_run is None
