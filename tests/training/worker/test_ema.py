import copy

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from training.worker.ema import ExponentialMovingAverage


def made() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))


def train(net: nn.Module, seed: int) -> None:
    torch.manual_seed(seed)
    net(torch.randn(16, 4)).square().mean().backward()
    with torch.no_grad():
        for weight in net.parameters():
            weight -= 0.1 * weight.grad
            weight.grad = None


def test_weights_and_statistics_are_averaged_as_torch_does_it_with_a_decay_that_rises() -> None:
    def moved(average: torch.Tensor, now: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        decay = min(0.5, (1 + float(count)) / (10 + float(count)))
        return decay * average + (1 - decay) * now if now.is_floating_point() else now

    net = made()
    ours, theirs = ExponentialMovingAverage(net, 0.5), AveragedModel(net, avg_fn=moved, use_buffers=True)

    for seed in range(12):
        train(net, seed)
        ours.update()
        theirs.update_parameters(net)

    expected = theirs.module.state_dict()
    for name, value in ours.module.state_dict().items():
        torch.testing.assert_close(value, expected[name])
    assert not torch.equal(ours.module[0].weight, net[0].weight)


def test_an_average_that_was_kept_goes_on_as_if_nothing_had_been() -> None:
    net = made()
    whole = ExponentialMovingAverage(net, 0.99)
    for seed in range(3):
        train(net, seed)
        whole.update()
    kept = copy.deepcopy(whole.state_dict())

    again = ExponentialMovingAverage(net, 0.99)
    again.load_state_dict(kept)
    train(net, 3)
    whole.update()
    again.update()

    expected = whole.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in again.state_dict().items())


def test_a_statistic_that_the_net_replaces_is_still_followed() -> None:
    class Counts(nn.Module):
        seen: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)
            self.register_buffer("seen", torch.zeros(1))

    net = Counts()
    average = ExponentialMovingAverage(net, 0.5)

    net.seen = torch.full((1,), 4.0)
    average.update()

    assert average.module.seen.item() == 4.0
