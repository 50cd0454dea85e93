import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from training.worker import checkpoint, parallel
from training.worker.checkpoint import TrainProgress, TrainState
from training.worker.ema import ExponentialMovingAverage


class Shared(nn.Module):
    """One layer under two names, and one that gets no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.second = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.unused = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.second(self.first(x).relu()))
        return y


def make_state(seed: int, optimizer_class: type[Optimizer] = AdamW) -> TrainState:
    torch.manual_seed(seed)
    net = Shared()
    optimizer = optimizer_class(net.parameters(), lr=0.1)  # type: ignore[call-arg]
    schedule = LambdaLR(optimizer, lambda step: 1 / (step + 1))
    return TrainState(net, ExponentialMovingAverage(net, 0.9), {}, optimizer, schedule, TrainProgress())


def train_step(state: TrainState, seed: int) -> None:
    torch.manual_seed(seed)
    state.net(torch.randn(16, 4)).square().mean().backward()
    state.optimizer.step()
    state.optimizer.zero_grad()
    state.schedule.step()
    assert isinstance(state.ema, ExponentialMovingAverage)
    state.ema.update_parameters(state.net)
    state.progress.epoch += 1


@pytest.mark.parametrize("optimizer_class", [AdamW, SGD])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, optimizer_class: type[Optimizer]
) -> None:
    uninterrupted, first = make_state(0, optimizer_class), make_state(0, optimizer_class)
    for seed in range(6):
        train_step(uninterrupted, seed)
    for seed in range(3):
        train_step(first, seed)
    first.best_weights.update(parallel.get_full_state(uninterrupted.net))
    checkpoint.write_snapshot(tmp_path, checkpoint.take_snapshot(first))

    resumed = make_state(99, optimizer_class)
    checkpoint.restore_state(tmp_path, resumed)
    for seed in range(resumed.progress.epoch, 6):
        train_step(resumed, seed)

    assert resumed.progress == uninterrupted.progress
    assert resumed.best_weights.keys() == first.best_weights.keys()
    for module, expected in zip(resumed.modules.values(), uninterrupted.modules.values(), strict=True):
        for name, value in module.state_dict().items():
            assert torch.equal(value, expected.state_dict()[name]), name


def test_a_snapshot_does_not_change_with_the_net() -> None:
    state = make_state(0)
    train_step(state, 0)

    snapshot = checkpoint.take_snapshot(state)
    before = {name: tensor.clone() for name, tensor in snapshot.tensors.items()}
    train_step(state, 1)

    assert all(torch.equal(tensor, before[name]) for name, tensor in snapshot.tensors.items())


def test_a_checkpoint_is_safetensors_and_json_and_nothing_else(tmp_path: Path) -> None:
    state = make_state(0)
    train_step(state, 0)

    checkpoint.write_snapshot(tmp_path, checkpoint.take_snapshot(state))

    assert sorted(p.name for p in tmp_path.iterdir()) == ["state.json", "state.safetensors"]


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_a_checkpoint_without_a_score_is_ordered_behind_every_other(higher_is_better: bool) -> None:
    best, worst = (0.9, 0.1) if higher_is_better else (0.1, 0.9)

    order = [
        checkpoint.ordering_metric(score, higher_is_better=higher_is_better)[checkpoint.ORDERING_METRIC]
        for score in (best, worst, None)
    ]

    assert order == sorted(order, reverse=True)


@pytest.mark.parametrize("score", [None, math.nan, math.inf, -math.inf, 0.5])
def test_the_ordering_metric_survives_json(score: float | None) -> None:
    metric = checkpoint.ordering_metric(score, higher_is_better=False)

    assert json.loads(json.dumps(metric, allow_nan=False)) == metric
