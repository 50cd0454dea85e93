import math

import pytest
import torch

from training.errors import ServiceError
from training.worker.checkpoint import TrainProgress
from training.worker.progress_sync import ProgressSync


def test_a_loss_that_diverges_ends_the_run_with_the_step_and_the_remedy() -> None:
    sync = ProgressSync(0.5, TrainProgress())
    sync.record_step(torch.tensor(0.7), 16)
    sync.synchronize(1)

    sync.record_step(torch.tensor(90.0), 16)

    with pytest.raises(ServiceError, match=r"diverged from 0.7 to 90 by step 2; lower optimizer.lr \(now 0.5\)"):
        sync.synchronize(2)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_reported_with_its_own_step(loss: float) -> None:
    sync = ProgressSync(0.5, TrainProgress())
    for value in (0.7, loss, 0.7):
        sync.record_step(torch.tensor(value), 16)

    with pytest.raises(ServiceError, match="not finite at step 9; lower"):
        sync.synchronize(10)
