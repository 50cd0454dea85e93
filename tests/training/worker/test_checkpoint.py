import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from training.worker import checkpoint
from training.worker.checkpoint import TrainProgress, TrainState


def made(seed: int) -> TrainState:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    optimiser = torch.optim.AdamW(net.parameters(), lr=0.1)
    return TrainState({"net": net}, {}, optimiser, LambdaLR(optimiser, lambda step: 1 / (step + 1)), TrainProgress())


def step(state: TrainState, seed: int) -> None:
    torch.manual_seed(seed)
    net = state.nets["net"]
    net(torch.randn(16, 4)).square().mean().backward()
    state.optimizer.step()
    state.optimizer.zero_grad()
    state.schedule.step()
    state.progress.epoch += 1


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, first = made(0), made(0)
    for seed in range(6):
        step(whole, seed)
    for seed in range(3):
        step(first, seed)
    first.best.update(whole.nets["net"].state_dict())
    checkpoint.write_snapshot(tmp_path, checkpoint.take_snapshot(first))

    resumed = made(99)
    checkpoint.restore_state(tmp_path, resumed)
    for seed in range(resumed.progress.epoch, 6):
        step(resumed, seed)

    assert resumed.progress == whole.progress
    assert resumed.best.keys() == first.best.keys()
    expected = whole.nets["net"].state_dict()
    for name, value in resumed.nets["net"].state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_a_checkpoint_is_safetensors_and_json_and_nothing_else(tmp_path: Path) -> None:
    state = made(0)
    step(state, 0)

    checkpoint.write_snapshot(tmp_path, checkpoint.take_snapshot(state))

    assert sorted(p.name for p in tmp_path.iterdir()) == ["state.json", "state.safetensors"]


@pytest.mark.parametrize("higher", [True, False])
def test_a_checkpoint_without_a_score_stands_behind_every_other(higher: bool) -> None:
    best, worst = (0.9, 0.1) if higher else (0.1, 0.9)

    ranks = [
        checkpoint.ordering_metric(score, higher=higher)[checkpoint.ORDERING_METRIC] for score in (best, worst, None)
    ]

    assert ranks == sorted(ranks, reverse=True)


@pytest.mark.parametrize("score", [None, math.nan, math.inf, -math.inf, 0.5])
def test_where_a_checkpoint_stands_survives_json(score: float | None) -> None:
    rank = checkpoint.ordering_metric(score, higher=False)

    assert json.loads(json.dumps(rank, allow_nan=False)) == rank
