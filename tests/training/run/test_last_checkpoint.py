import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from training.run.last_checkpoint import SNAPSHOT_FILE, find_last_checkpoint


def checkpoint(folder: Path, name: str, steps: int) -> Path:
    (folder / name).mkdir(parents=True)
    save_file({"net/weight": torch.zeros(10)}, folder / name / "state.safetensors")
    (folder / name / "state.json").write_text(json.dumps({"progress": {"steps": steps}}))
    return folder / name


def account(folder: Path, *names: str) -> None:
    (folder / SNAPSHOT_FILE).write_text(json.dumps({"checkpoint_results": [{"checkpoint_dir_name": n} for n in names]}))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    checkpoint(tmp_path / "a-run", "checkpoint_1", steps=10)
    checkpoint(tmp_path / "a-run", "checkpoint_2", steps=20)
    return tmp_path / "a-run"


def test_a_sound_account_is_left_to_ray(run: Path) -> None:
    account(run, "checkpoint_1", "checkpoint_2")

    assert find_last_checkpoint(str(run.parent), "a-run") is None
    assert (run / SNAPSHOT_FILE).exists()


@pytest.mark.parametrize("content", ["", '{"checkpoint_results": [{"check', "[]"])
def test_a_broken_account_is_removed_and_the_newest_checkpoint_found(run: Path, content: str) -> None:
    (run / SNAPSHOT_FILE).write_text(content)

    assert find_last_checkpoint(str(run.parent), "a-run") == f"{run}/checkpoint_2"
    assert not (run / SNAPSHOT_FILE).exists()


def test_an_account_of_what_is_not_there_is_broken(run: Path) -> None:
    account(run, "checkpoint_1", "checkpoint_2", "checkpoint_3")

    assert find_last_checkpoint(str(run.parent), "a-run") == f"{run}/checkpoint_2"


@pytest.mark.parametrize("file", ["state.safetensors", "state.json"])
@pytest.mark.parametrize("left", [0, 1 / 2])
def test_half_a_checkpoint_is_none(run: Path, file: str, left: float) -> None:
    damaged = run / "checkpoint_2" / file
    os.truncate(damaged, int(damaged.stat().st_size * left))

    assert find_last_checkpoint(str(run.parent), "a-run") == f"{run}/checkpoint_1"


def test_a_run_that_kept_nothing_begins_anew(tmp_path: Path) -> None:
    assert find_last_checkpoint(str(tmp_path), "a-run") is None
