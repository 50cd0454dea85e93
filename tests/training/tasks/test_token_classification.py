import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.training.tasks.small_tasks import make_task
from training.data.bio_tags import IGNORE_INDEX
from training.data.dataset import Dataset
from training.errors import UserError
from training.recipe.spec import TokenizerConfig
from training.tasks.token_classification import precision_recall_f1

TOKENIZER = TokenizerConfig(kind="characters", max_tokens=8)
DATASET = Dataset(["abcd", "ab"], [[(0, 2, "X"), (3, 4, "Y")], []], ("X", "Y"))
OUTSIDE, B_X, I_X, B_Y = 0, 1, 2, 3


def test_spans_become_tags_padded_with_what_the_loss_ignores() -> None:
    rows = make_task("token-classification", DATASET, tokenizer=TOKENIZER).encode_rows(DATASET)

    assert rows.targets.tolist() == [[B_X, I_X, OUTSIDE, B_Y], [OUTSIDE, OUTSIDE, IGNORE_INDEX, IGNORE_INDEX]]


def test_only_exact_spans_are_true_positives() -> None:
    task = make_task("token-classification", DATASET, tokenizer=TOKENIZER)
    rows = task.encode_rows(DATASET)
    # The X span is cut short; Y is right; the second text gets an X too many, and tags on padding, which is ignored.
    predicted = torch.tensor([[B_X, OUTSIDE, OUTSIDE, B_Y], [B_X, OUTSIDE, B_Y, B_Y]])
    logits = 10.0 * F.one_hot(predicted, 5).float()

    eval_outputs = task.eval_outputs(nn.Identity(), logits, rows)

    assert eval_outputs[:, 1:].tolist() == [[4, 0, 1, 1, 1, 0, 0], [2, 0, 1, 0, 0, 0, 0]]
    metrics = task.validation_metrics(eval_outputs)
    assert metrics["span_f1"] == pytest.approx(2 / 5)
    assert metrics["span_precision"] == pytest.approx(1 / 3)
    assert metrics["span_recall"] == pytest.approx(1 / 2)
    # Two of six tokens are wrong, each by 10 nats but for the normalization.
    assert metrics["cross_entropy"] == pytest.approx(20 / 6, abs=1e-3)
    assert task.per_class_metrics(eval_outputs) == {
        "X": {"f1": 0.0, "precision": 0.0, "recall": 0.0, "support": 1.0},
        "Y": {"f1": 1.0, "precision": 1.0, "recall": 1.0, "support": 1.0},
    }


def test_nothing_counted_scores_zero() -> None:
    assert precision_recall_f1(0, 0, 0) == {"f1": 0.0, "precision": 0.0, "recall": 0.0}


def test_a_data_set_without_spans_is_refused() -> None:
    dataset = Dataset(["abcd"], None, ("X",))

    with pytest.raises(UserError, match="a list of spans for each text"):
        make_task("token-classification", dataset, tokenizer=TOKENIZER).encode_rows(dataset)
