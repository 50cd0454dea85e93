"""The private names of Ray that `training.run` uses."""

import json

import pytest
import ray
import ray.train
from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2.api import config

from training.run.ray_internals import SNAPSHOT_FILE, parse_snapshot, unwrap_worker_error
from training.worker.ray_internals import RAY_VERSION


def test_the_installed_ray_is_the_one_whose_internals_were_read() -> None:
    assert ray.__version__ == RAY_VERSION, "read training/run/ray_internals.py against it"


def test_the_public_configuration_classes_are_those_that_types_are_checked_against() -> None:
    for name in ("CheckpointConfig", "FailureConfig", "RunConfig", "ScalingConfig"):
        assert getattr(ray.train, name) is getattr(config, name)


def test_a_workers_own_error_is_unwrapped() -> None:
    error = ValueError("odd")

    assert unwrap_worker_error(UserExceptionWithTraceback(error, "traceback")) is error
    assert unwrap_worker_error(error) is error


def test_the_list_of_checkpoints_has_rays_name() -> None:
    assert SNAPSHOT_FILE == CHECKPOINT_MANAGER_SNAPSHOT_FILENAME


@pytest.mark.parametrize("content", ["[]", "{}", '{"checkpoint_results": [{}]}', '{"checkpoint_results": 1}', "{"])
def test_a_list_of_another_layout_is_a_value_error(content: str) -> None:
    with pytest.raises(ValueError, match=r"layout|line 1"):
        parse_snapshot(content.encode())


def test_a_list_names_its_checkpoints() -> None:
    content = json.dumps({"checkpoint_results": [{"checkpoint_dir_name": "checkpoint_1"}]})

    assert parse_snapshot(content.encode()) == ["checkpoint_1"]
