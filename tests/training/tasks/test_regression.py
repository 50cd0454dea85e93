import pytest
import torch
from torch import nn

from tests.training.tasks.small_tasks import build_table, make_task
from training.data.preprocessing import EncodedRows

PRICES = torch.tensor([10.0, 20.0, 30.0, 60.0])


def test_the_published_net_predicts_in_the_targets_unit() -> None:
    task = make_task("tabular-regression", build_table(PRICES, ("price",)))
    rows = task.encode_rows(build_table(PRICES, ("price",)))

    layer = task.output_layer(rows)

    assert layer is not None
    assert rows.targets.shape == (4, 1)
    standardized = (rows.targets - rows.targets.mean()) / rows.targets.std(correction=0)
    assert torch.allclose(layer.eval()(standardized), rows.targets)
    assert torch.equal(layer.train()(standardized), standardized)
    assert set(layer.state_dict()) == {"mean", "std"}


def test_the_loss_is_on_standardized_targets() -> None:
    task = make_task("tabular-regression", build_table(PRICES, ("price",)))
    rows = task.encode_rows(build_table(PRICES, ("price",)))
    task.output_layer(rows)

    # The mean predicted for every row: the variance of standardized targets.
    assert task.loss(torch.zeros(4, 1), rows).item() == pytest.approx(1.0)


def test_a_constant_target_keeps_its_scale() -> None:
    task = make_task("tabular-regression", build_table(torch.full((4,), 7.0), ("price",)))
    layer = task.output_layer(task.encode_rows(build_table(torch.full((4,), 7.0), ("price",))))

    assert layer is not None
    assert torch.equal(layer.eval()(torch.tensor([[0.0], [1.0]])), torch.tensor([[7.0], [8.0]]))


def test_metrics_are_of_targets_and_predictions() -> None:
    task = make_task("tabular-regression", build_table(PRICES, ("price",)))
    batch = EncodedRows(torch.zeros(4, 2), PRICES[:, None])
    eval_outputs = task.eval_outputs(
        nn.Identity(), PRICES[:, None] + torch.tensor([[2.0], [-2.0], [0.0], [4.0]]), batch
    )

    assert task.metrics(eval_outputs) == pytest.approx({"r2": 1 - 24 / 1400, "mae": 2.0, "rmse": 6**0.5})


def test_the_r2_of_a_single_row_is_nan() -> None:
    task = make_task("tabular-regression", build_table(PRICES, ("price",)))

    assert torch.tensor(task.metrics(torch.tensor([[1.0, 1.0]]))["r2"]).isnan()
