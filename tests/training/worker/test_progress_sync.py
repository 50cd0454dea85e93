import math

import pytest
import torch

from training.errors import ServiceError
from training.worker.checkpoint import TrainProgress
from training.worker.progress_sync import ProgressSync


def test_a_loss_that_explodes_ends_the_run_with_the_step_and_the_remedy() -> None:
    pulse = ProgressSync(0.5, TrainProgress())
    pulse.record_step(torch.tensor(0.7), 16)
    pulse.synchronize(1)

    pulse.record_step(torch.tensor(90.0), 16)

    with pytest.raises(ServiceError, match=r"exploded from 0.7 to 90 by step 2; try a lower optimiser.lr \(now 0.5\)"):
        pulse.synchronize(2)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_told_with_its_own_step(loss: float) -> None:
    pulse = ProgressSync(0.5, TrainProgress())
    for value in (0.7, loss, 0.7):
        pulse.record_step(torch.tensor(value), 16)

    with pytest.raises(ServiceError, match="no finite number at step 9; try a lower"):
        pulse.synchronize(10)
