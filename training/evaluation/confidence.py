"""Confidence: bootstrap intervals of held-out metrics, and the calibration of labels' probabilities.

Train walk: training.worker.finalize -> [confidence.py]
Knows nothing of nets or tasks.
"""
# Shapes: N rows of a split, C classes.

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

CALIBRATION_BINS = 15


def bootstrap_interval(metric: Callable[[Tensor], float], num_rows: int, num_samples: int) -> tuple[float, float]:
    """The 95% percentile interval of a metric over rows drawn with replacement (Efron, 1979).

    Samples on which the metric is not finite (R2 of equal targets) are left out. torchmetrics' BootStrapper takes only
    its own Metric objects, which span F1, bits per character, ELBO and mAP are not, and scipy.stats.bootstrap would
    make scipy a dependency.

    Args:
        metric: takes row indices, int64 (N,), with repeats.
        num_rows: N.
        num_samples: bootstrap samples to draw.

    Returns:
        Lower and upper bound; the same for the same arguments.
    """
    generator = torch.Generator().manual_seed(0)
    values = torch.tensor(
        [metric(torch.randint(num_rows, (num_rows,), generator=generator)) for _ in range(num_samples)],
        dtype=torch.float64,
    )
    low, high = values[torch.isfinite(values)].quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def fit_temperature(y_NC: Tensor, target_N: Tensor) -> float:
    """Fit the temperature that minimizes the cross-entropy of logits / temperature (Guo et al., 2017).

    Args:
        y_NC: logits of the validation split.
        target_N: int64, its targets.

    Returns:
        0.2 to 10.
    """
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature], max_iter=100, line_search_fn="strong_wolfe")
    y_NC = y_NC.double()

    def closure() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(y_NC / log_temperature.exp(), target_N)
        loss.backward()
        return loss.item()

    with torch.enable_grad():
        optimizer.step(closure)
    # On a validation split without errors the optimum is 0: scores of exactly 1, which nothing justifies.
    return float(log_temperature.detach().exp().clamp(0.2, 10.0))


def expected_calibration_error(y_NC: Tensor, target_N: Tensor, temperature: float) -> float:
    """The mean difference between a prediction's score and the accuracy of predictions with such scores, in 15 bins."""
    # Imported late: it takes a second, with matplotlib and scipy, that no first training step should wait for.
    from torchmetrics.functional.classification import multiclass_calibration_error

    scores_NC = (y_NC / temperature).softmax(1)
    return float(multiclass_calibration_error(scores_NC, target_N, y_NC.shape[1], n_bins=CALIBRATION_BINS))
