from importlib.metadata import version
from types import SimpleNamespace

import pytest

from training.worker.codecarbon_internals import CODECARBON_VERSION, reads_energy_counters


def test_the_installed_codecarbon_is_the_one_that_was_read() -> None:
    # Another codecarbon? Read every name in training/worker/codecarbon_internals.py again, then change the version.
    assert version("codecarbon") == CODECARBON_VERSION


@pytest.mark.parametrize(("mode", "measured"), [("intel_rapl", True), ("cpu_load", False)])
def test_a_processor_with_counters_is_measured_and_any_other_estimated(mode: str, measured: bool) -> None:
    tracker = SimpleNamespace(_hardware=[SimpleNamespace(), SimpleNamespace(_mode=mode)])

    assert reads_energy_counters(tracker) is measured


def test_another_codecarbon_counts_as_an_estimate() -> None:
    assert not reads_energy_counters(object())
