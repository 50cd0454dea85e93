import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from training.run.last_checkpoint import find_last_checkpoint
from training.worker.ray_internals import SNAPSHOT_FILE


def write_checkpoint(folder: Path, name: str, step: int) -> Path:
    (folder / name).mkdir(parents=True)
    save_file({"net/weight": torch.zeros(10)}, folder / name / "state.safetensors")
    (folder / name / "state.json").write_text(json.dumps({"progress": {"global_step": step}}))
    return folder / name


def write_snapshot_file(folder: Path, *names: str) -> None:
    results = [{"checkpoint_dir_name": name} for name in names]
    (folder / SNAPSHOT_FILE).write_text(json.dumps({"checkpoint_results": results}))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "a-run", "checkpoint_1", step=10)
    write_checkpoint(tmp_path / "a-run", "checkpoint_2", step=20)
    return tmp_path / "a-run"


def test_a_readable_list_of_checkpoints_is_left_to_ray(run: Path) -> None:
    write_snapshot_file(run, "checkpoint_1", "checkpoint_2")

    assert find_last_checkpoint(str(run.parent), "a-run") is None
    assert (run / SNAPSHOT_FILE).exists()


@pytest.mark.parametrize("content", ["", '{"checkpoint_results": [{"check', "[]"])
def test_an_unreadable_list_is_deleted_and_the_newest_checkpoint_found(run: Path, content: str) -> None:
    (run / SNAPSHOT_FILE).write_text(content)

    assert find_last_checkpoint(str(run.parent), "a-run") == f"{run}/checkpoint_2"
    assert not (run / SNAPSHOT_FILE).exists()


def test_a_list_of_a_missing_checkpoint_counts_as_unreadable(run: Path) -> None:
    write_snapshot_file(run, "checkpoint_1", "checkpoint_2", "checkpoint_3")

    assert find_last_checkpoint(str(run.parent), "a-run") == f"{run}/checkpoint_2"


@pytest.mark.parametrize("file", ["state.safetensors", "state.json"])
@pytest.mark.parametrize("fraction", [0, 1 / 2])
def test_an_incomplete_checkpoint_does_not_count(run: Path, file: str, fraction: float) -> None:
    damaged = run / "checkpoint_2" / file
    os.truncate(damaged, int(damaged.stat().st_size * fraction))

    assert find_last_checkpoint(str(run.parent), "a-run") == f"{run}/checkpoint_1"


def test_a_run_without_checkpoints_has_no_last_one(tmp_path: Path) -> None:
    assert find_last_checkpoint(str(tmp_path), "a-run") is None
