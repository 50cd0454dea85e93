"""How far a held-out score can be trusted: bootstrap intervals and calibration."""
# Shapes: N rows, K facts of a row, C classes.

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

BOOTSTRAP_SAMPLES = 1000
BINS = 15


def bootstrap_interval(
    facts_NK: Tensor, score: Callable[[Tensor], float], draws: int = BOOTSTRAP_SAMPLES
) -> tuple[float, float]:
    """The 95% percentile interval of a score over rows drawn with replacement (Efron, 1979)."""
    generator = torch.Generator().manual_seed(0)
    size = len(facts_NK)
    scores = torch.tensor(
        [score(facts_NK[torch.randint(size, (size,), generator=generator)]) for _ in range(draws)],
        dtype=torch.float64,
    )
    low, high = scores[torch.isfinite(scores)].quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def fit_temperature(y_NC: Tensor, target_N: Tensor) -> float:
    """The one number by which logits are divided so that held-out cross-entropy is least (Guo et al., 2017).

    Args:
        y_NC: logits of the validation rows.
        target_N: int64, their labels.
    """
    log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([log_t], max_iter=100, line_search_fn="strong_wolfe")
    y_NC = y_NC.double()

    def closure() -> float:
        optimiser.zero_grad()
        loss = F.cross_entropy(y_NC / log_t.exp(), target_N)
        loss.backward()
        return loss.item()

    with torch.enable_grad():
        optimiser.step(closure)
    # A validation part without a single mistake would want certainty; nobody has that.
    return float(log_t.detach().exp().clamp(0.2, 10.0))


def expected_calibration_error(y_NC: Tensor, target_N: Tensor, temperature: float) -> float:
    """Expected calibration error: how far scores are from shares of right answers, on average over rows."""
    # Brings scipy and matplotlib with it: not before a worker's first step.
    from torchmetrics.functional.classification import multiclass_calibration_error

    scores = (y_NC / temperature).softmax(1)
    return float(multiclass_calibration_error(scores, target_N, y_NC.shape[1], n_bins=BINS))
