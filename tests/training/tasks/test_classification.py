import pytest
import torch
from torch import nn

from tests.training.tasks.small_tasks import build_table, make_task
from training.data.preprocessing import EncodedRows
from training.recipe.spec import Loss
from training.tasks.classification import TwoLogits

LABELS = ("no", "yes")
TARGETS = torch.tensor([0, 1, 1, 0])
# Predictions no, yes, no, no.
LOGITS = torch.tensor([[2.0, 1.0], [0.5, 1.0], [3.0, 1.0], [1.0, 0.0]])


def test_two_logits_have_the_probabilities_of_one() -> None:
    y_B1 = torch.tensor([[-3.0], [0.0], [0.5]])

    y_B2 = TwoLogits().eval()(y_B1)

    assert torch.allclose(y_B2.softmax(1)[:, 1:], y_B1.sigmoid())
    assert torch.equal(TwoLogits().train()(y_B1), y_B1)


def test_one_logit_for_two_labels_has_the_loss_of_two() -> None:
    task = make_task("tabular-classification", build_table(TARGETS, LABELS), net_args={"num_classes": 1})
    plain = make_task("tabular-classification", build_table(TARGETS, LABELS))
    y_B1, batch = LOGITS[:, 1:] - LOGITS[:, :1], EncodedRows(torch.zeros(4, 2), TARGETS)

    assert torch.allclose(task.loss(y_B1, batch), plain.loss(LOGITS, batch))
    assert isinstance(task.output_layer(batch), TwoLogits)
    assert plain.output_layer(batch) is None


def test_a_custom_binary_loss_gets_targets_of_the_outputs_shape() -> None:
    loss = Loss(source="torch.nn.functional:binary_cross_entropy_with_logits", args={"reduction": "sum"})
    task = make_task("tabular-classification", build_table(TARGETS, LABELS), net_args={"num_classes": 1}, loss=loss)
    default = make_task("tabular-classification", build_table(TARGETS, LABELS), net_args={"num_classes": 1})
    y_B1, batch = torch.randn(4, 1), EncodedRows(torch.zeros(4, 2), TARGETS)

    assert torch.allclose(task.loss(y_B1, batch), 4 * default.loss(y_B1, batch))


def test_metrics_are_macro_averages_and_by_label() -> None:
    task = make_task("tabular-classification", build_table(TARGETS, LABELS))
    eval_outputs = task.eval_outputs(nn.Identity(), LOGITS, EncodedRows(torch.zeros(4, 2), TARGETS))

    metrics, by_label = task.metrics(eval_outputs), task.per_class_metrics(eval_outputs)

    assert metrics["accuracy"] == 0.75
    assert by_label["no"] == pytest.approx({"precision": 2 / 3, "recall": 1.0, "f1": 0.8, "support": 2})
    assert by_label["yes"] == pytest.approx({"precision": 1.0, "recall": 0.5, "f1": 2 / 3, "support": 2})
    assert metrics["f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    # Logit differences: 0.5 and -2 where yes is true, -1 and -1 where it is not: 2 of 4 pairs are in order.
    assert metrics["roc_auc"] == pytest.approx(0.5)
