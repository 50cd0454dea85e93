"""A clock that was set back is found, once; what is done about it is in test_directory.py."""

import time
from collections.abc import Callable, Sequence

import pytest

from deployments.edge.wall_clock import WallClock


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    read = time.time
    return lambda ahead_s: monkeypatch.setattr(time, "time", lambda: read() + ahead_s)


@pytest.mark.parametrize(
    ("ahead_s", "setbacks_s"),
    [
        ((0, -3600, -3600), (0, 3600, 0)),
        ((3600, 3600, 0), (0, 0, 3600)),
        ((0, -2, -4, -6), (0, 0, 0, 0)),
        ((-20, -40), (20, 20)),
    ],
)
def test_what_the_clock_was_set_back_by_is_told_once(
    set_clock: Callable[[float], None], ahead_s: Sequence[float], setbacks_s: Sequence[float]
) -> None:
    clock, found = WallClock(), []
    for each in ahead_s:
        set_clock(each)
        found.append(clock.measure_setback_s())

    assert found == pytest.approx(setbacks_s, abs=0.5)
