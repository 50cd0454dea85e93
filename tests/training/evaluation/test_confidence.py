import math

import pytest
import torch
from torch.nn import functional as F

from training.evaluation.confidence import bootstrap_interval, expected_calibration_error, fit_temperature


def test_the_interval_of_a_mean_is_that_of_normal_theory() -> None:
    x = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 5

    low, high = bootstrap_interval(lambda rows: x[rows].mean().item(), len(x), num_samples=2000)

    standard_error = x.std().item() / math.sqrt(len(x))
    assert low == pytest.approx(x.mean().item() - 1.96 * standard_error, abs=0.1 * standard_error)
    assert high == pytest.approx(x.mean().item() + 1.96 * standard_error, abs=0.1 * standard_error)


def test_the_interval_is_the_same_each_time() -> None:
    x = torch.arange(50.0)

    first, again = (bootstrap_interval(lambda rows: x[rows].mean().item(), 50, 100) for _ in range(2))

    assert first == again


def test_samples_without_a_finite_metric_are_left_out() -> None:
    metrics = iter([math.nan, 1.0, math.inf, 1.0] * 25)

    assert bootstrap_interval(lambda rows: next(metrics), 10, 100) == (1.0, 1.0)


def overconfident_predictions(rows: int = 20_000, factor: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are too large by a factor, and targets drawn from the probabilities of the right ones."""
    g = torch.Generator().manual_seed(0)
    y_NC = torch.randn(rows, 4, generator=g)
    target_N = torch.multinomial(y_NC.softmax(1), 1, generator=g).flatten()
    return y_NC * factor, target_N


def test_the_temperature_undoes_a_factor_in_the_logits() -> None:
    y_NC, target_N = overconfident_predictions()

    temperature = fit_temperature(y_NC, target_N)

    assert temperature == pytest.approx(3.0, rel=0.05)
    losses = [F.cross_entropy(y_NC / t, target_N).item() for t in (temperature, 0.9 * temperature, 1.1 * temperature)]
    assert losses[0] == min(losses)


def test_the_temperature_stays_within_bounds_where_no_row_is_wrong() -> None:
    assert fit_temperature(torch.eye(3) * 2, torch.arange(3)) == pytest.approx(0.2)


def test_calibration_error_is_the_distance_between_score_and_accuracy() -> None:
    # Every row has a score of 0.8; half of them are right.
    y_NC = torch.tensor([[math.log(4.0), 0.0]]).repeat(10, 1)
    target_N = torch.tensor([0, 1] * 5)

    assert expected_calibration_error(y_NC, target_N, 1.0) == pytest.approx(0.3, abs=1e-6)


def test_the_fitted_temperature_removes_the_calibration_error() -> None:
    y_NC, target_N = overconfident_predictions()

    assert expected_calibration_error(y_NC, target_N, 1.0) > 0.15
    assert expected_calibration_error(y_NC, target_N, fit_temperature(y_NC, target_N)) < 0.02
