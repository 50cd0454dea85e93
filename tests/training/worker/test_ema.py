import copy

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from training.worker.ema import ExponentialMovingAverage


def make_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))


def train_step(net: nn.Module, seed: int) -> None:
    torch.manual_seed(seed)
    net(torch.randn(16, 4)).square().mean().backward()
    with torch.no_grad():
        for weight in net.parameters():
            assert weight.grad is not None
            weight.sub_(weight.grad, alpha=0.1)
            weight.grad = None


def test_weights_and_statistics_are_averaged_with_a_decay_that_rises() -> None:
    def average(averaged: torch.Tensor, current: torch.Tensor, count: torch.Tensor | int) -> torch.Tensor:
        decay = min(0.5, (1 + float(count)) / (10 + float(count)))
        return decay * averaged + (1 - decay) * current if current.is_floating_point() else current

    net = make_net()
    ema, expected = ExponentialMovingAverage(net, 0.5), AveragedModel(net, avg_fn=average, use_buffers=True)

    for seed in range(12):
        train_step(net, seed)
        ema.update_parameters(net)
        expected.update_parameters(net)

    expected_state = expected.module.state_dict()
    for name, value in ema.module.state_dict().items():
        torch.testing.assert_close(value, expected_state[name])
    assert not torch.equal(ema.module.state_dict()["0.weight"], net.state_dict()["0.weight"])


def test_a_restored_average_continues_as_an_uninterrupted_one() -> None:
    net = make_net()
    uninterrupted = ExponentialMovingAverage(net, 0.99)
    for seed in range(3):
        train_step(net, seed)
        uninterrupted.update_parameters(net)
    saved = copy.deepcopy(uninterrupted.state_dict())

    restored = ExponentialMovingAverage(net, 0.99)
    restored.load_state_dict(saved)
    train_step(net, 3)
    uninterrupted.update_parameters(net)
    restored.update_parameters(net)

    expected = uninterrupted.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in restored.state_dict().items())


def test_a_statistic_that_the_net_replaces_is_still_followed() -> None:
    class Counter(nn.Module):
        seen: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)
            self.register_buffer("seen", torch.zeros(1))

    net = Counter()
    ema = ExponentialMovingAverage(net, 0.5)

    net.seen = torch.full((1,), 4.0)
    ema.update_parameters(net)

    assert ema.module.state_dict()["seen"].item() == 4.0
