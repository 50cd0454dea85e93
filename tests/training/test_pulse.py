import math

import pytest
import torch

from training.errors import Failure
from training.pulse import Pulse
from training.recovery.checkpoint import Progress


def test_a_loss_that_explodes_ends_the_run_with_the_step_and_the_remedy() -> None:
    pulse = Pulse(0.5, Progress())
    pulse.step(torch.tensor(0.7), 16)
    pulse.beat(1)

    pulse.step(torch.tensor(90.0), 16)

    with pytest.raises(Failure, match=r"exploded from 0.7 to 90 by step 2; try a lower optimiser.lr \(now 0.5\)"):
        pulse.beat(2)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_told_with_its_own_step(loss: float) -> None:
    pulse = Pulse(0.5, Progress())
    for value in (0.7, loss, 0.7):
        pulse.step(torch.tensor(value), 16)

    with pytest.raises(Failure, match="no finite number at step 9; try a lower"):
        pulse.beat(10)
