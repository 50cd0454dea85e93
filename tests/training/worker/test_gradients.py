"""Another strategy takes the place of the default one without a change to the loop."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests.training.worker import local_workers
from tests.training.worker.local_workers import Tower, WorkerResult, rings
from training.data.preprocessing import EncodedRows
from training.recipe.spec import Data, LrSchedule, Net, Optimizer, Recipe, StopRule
from training.worker.training_worker import GradientStepFactory, Worker

RECIPE = Recipe(
    name="rings",
    task="tabular-classification",
    data=Data(source=rings),
    net=Net(source=Tower),
    optimizer=Optimizer(name="SGD", lr=0.1),
    schedule=LrSchedule(name="constant"),
    stop=StopRule(steps=5),
    batch_size=16,
)


class PerRowClipping:
    """Gradients of single rows, each clipped to a norm, and their mean: what private training adds its noise to."""

    max_norm = 1e9

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def __call__(self, batch: EncodedRows) -> Tensor:
        worker, parameters = self._worker, list(self._worker.net.parameters())
        total_loss = torch.zeros(())
        sums = [torch.zeros_like(parameter) for parameter in parameters]
        for index in range(len(batch)):
            row = batch.select(slice(index, index + 1))
            loss = worker.task.loss(worker.net(row.inputs), row)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, self.max_norm)
            for gradient_sum, parameter in zip(sums, parameters, strict=True):
                assert parameter.grad is not None
                gradient_sum += parameter.grad
                parameter.grad = None
            total_loss += loss.detach() / len(batch)
        for gradient_sum, parameter in zip(sums, parameters, strict=True):
            dist.all_reduce(gradient_sum)
            parameter.grad = gradient_sum / worker.recipe.batch_size
        return total_loss


class TightPerRowClipping(PerRowClipping):
    max_norm = 1e-9


def train(tmp_path: Path, gradient_step: GradientStepFactory) -> list[WorkerResult]:
    return local_workers.train(RECIPE, tmp_path / gradient_step.__name__, gradient_step=gradient_step)


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> WorkerResult:
    return local_workers.train(RECIPE, tmp_path_factory.mktemp("default") / "run")[0]


def test_per_row_gradients_train_as_those_of_the_batch_where_none_is_clipped(
    tmp_path: Path, default: WorkerResult
) -> None:
    first, second = train(tmp_path, PerRowClipping)

    assert first.losses == pytest.approx(default.losses, rel=1e-4)
    for name, weight in default.weights.items():
        torch.testing.assert_close(first.weights[name], weight, rtol=1e-3, atol=1e-4)
        assert torch.equal(first.weights[name], second.weights[name])


def test_per_row_gradients_that_are_clipped_to_nothing_leave_the_weights(tmp_path: Path, default: WorkerResult) -> None:
    first, _ = train(tmp_path, TightPerRowClipping)

    assert first.progress.global_step == default.progress.global_step == 5
    assert first.losses[-1] > default.losses[-1]
