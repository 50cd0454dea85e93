"""Which sizes of passes are timed, with nets whose passes last as long as they say."""

import time
from collections.abc import Callable

import numpy as np
import pytest

from deployments.models.pass_timing import time_passes
from deployments.protocols.arrays import Array
from deployments.scaling.profile import choose_pass_rows

ROW = np.zeros((1, 2), np.float32)


def make_net(durations_s: Callable[[int], float]) -> Callable[[Array], None]:
    return lambda x: time.sleep(durations_s(len(x)))


def test_a_size_whose_rows_are_slower_does_not_hide_larger_ones_that_are_fast() -> None:
    """As of matrix products: two rows by one kernel, some more by a slower one, and many by the fastest."""
    net = make_net(lambda rows: 0.008 if rows <= 2 else 0.005 * rows if rows <= 8 else 0.045 + 0.0001 * rows)

    assert choose_pass_rows(time_passes(net, ROW, 64, 0.0)) == 64


@pytest.mark.parametrize("row_s", [0.03, 0.06])
def test_a_slow_net_that_loses_by_larger_passes_is_not_tried_for_long(row_s: float) -> None:
    passes = time_passes(make_net(lambda rows: row_s * rows**1.05), ROW, 64, 0.0)

    assert choose_pass_rows(passes) == 1
    assert passes[-1].rows == 4
