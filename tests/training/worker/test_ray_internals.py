"""Ray's private names are those that were read; where Ray changes, a run refuses to start or says less."""

import inspect
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
import ray.train
from ray._private import worker
from ray.exceptions import RayActorError
from ray.train import Checkpoint
from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME
from ray.train.v2.api import config

from tests.training.worker.ray_local_mode import errors_of_failed_worker, install_local_mode, worker_death
from training.errors import ServiceError
from training.worker.ray_internals import (
    RAY_VERSION,
    SNAPSHOT_FILE,
    CheckpointStorage,
    get_cause_of_death,
    parse_snapshot,
    silence_worker_deaths,
)


def test_the_installed_ray_is_the_one_that_was_read() -> None:
    # Another Ray? Read every name in training/worker/ray_internals.py again, then change RAY_VERSION.
    assert ray.__version__ == RAY_VERSION


def test_a_checkpoint_is_uploaded_to_the_runs_folder_and_deleted_from_it(tmp_path: Path) -> None:
    install_local_mode(tmp_path / "storage", rank=0, world_size=1)
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "state.json").write_text("{}")

    storage = CheckpointStorage()
    uploaded = storage.upload(Checkpoint.from_directory(str(tmp_path / "local")), "first")

    assert Path(uploaded.path) == Path(storage.path) / "first"
    assert (Path(uploaded.path) / "state.json").read_text() == "{}"
    storage.delete("first")
    assert not Path(uploaded.path).exists()


def test_a_run_refuses_to_start_where_ray_stores_checkpoints_in_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    context = SimpleNamespace(get_storage=lambda: SimpleNamespace(experiment_fs_path="", storage_filesystem=None))
    monkeypatch.setattr(ray.train, "get_context", lambda: context)

    with pytest.raises(ServiceError, match=r"has no .*persist_current_checkpoint.*install ray=="):
        CheckpointStorage()


def test_the_cause_of_a_death_is_found_and_any_other_error_has_none() -> None:
    cause = RayActorError()

    assert get_cause_of_death(worker_death(cause)) is cause
    assert get_cause_of_death(KeyError("price")) is None


def test_a_callback_gets_the_error_that_a_worker_raised_itself() -> None:
    error = KeyError("price")

    assert errors_of_failed_worker(error) == {0: error}


def test_deaths_are_printed_by_the_function_that_is_silenced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)

    silence_worker_deaths()

    assert "print_to_stdstream(" in inspect.getsource(worker.listen_error_messages)
    assert worker.print_to_stdstream({"is_err": True}, ignore_prefix=False) is None


def test_the_public_configuration_classes_are_those_that_types_are_checked_against() -> None:
    for name in ("CheckpointConfig", "FailureConfig", "RunConfig", "ScalingConfig"):
        assert getattr(ray.train, name) is getattr(config, name)


def test_the_list_of_checkpoints_has_rays_name() -> None:
    assert SNAPSHOT_FILE == CHECKPOINT_MANAGER_SNAPSHOT_FILENAME


@pytest.mark.parametrize("content", ["[]", "{}", '{"checkpoint_results": [{}]}', '{"checkpoint_results": 1}', "{"])
def test_a_list_of_another_layout_is_a_value_error(content: str) -> None:
    with pytest.raises(ValueError, match=r"layout|line 1"):
        parse_snapshot(content.encode())


def test_a_list_names_its_checkpoints() -> None:
    content = json.dumps({"checkpoint_results": [{"checkpoint_dir_name": "checkpoint_1"}]})

    assert parse_snapshot(content.encode()) == ["checkpoint_1"]
