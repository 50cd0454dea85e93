"""Resources that a run may wait for: who holds them, and GPUs that can never come."""

import pytest

from training.errors import UserError
from training.run.options import RunOptions
from training.run.pending_resources import sum_replica_resources


def test_replicas_are_counted_by_model() -> None:
    replicas = [
        ("SERVE_REPLICA::digits-cnn#replica#a1", {"CPU": 1.0}),
        ("SERVE_REPLICA::digits-cnn#replica#b2", {"CPU": 1.0, "GPU": 0.5}),
        ("SERVE_REPLICA::iris#replica#c3", {"CPU": 0.5}),
        ("SERVE_REPLICA::shoal.control#control#d4", {"node:__internal_head__": 0.001}),
    ]

    assert sum_replica_resources(replicas, "CPU") == {"digits-cnn": 2.0, "iris": 0.5}


def test_gpus_that_no_machine_has_are_refused_unless_the_cluster_grows() -> None:
    options = RunOptions(gpus=True)

    with pytest.raises(UserError, match="--gpus: no machine of this cluster has a GPU; leave --gpus out"):
        options.reject_missing_gpus(0, autoscales=False)
    options.reject_missing_gpus(0, autoscales=True)
    options.reject_missing_gpus(1, autoscales=False)
    RunOptions().reject_missing_gpus(0, autoscales=False)
