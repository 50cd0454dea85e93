"""The private names of codecarbon that `training.worker` uses; checked against codecarbon 3.3.2 (CODECARBON_VERSION).

| name | used for (there is no public API) | if codecarbon changes |
|---|---|---|
| `EmissionsTracker._hardware`, `CPU._mode` | whether the processor's energy is measured: `EmissionsData` does not \
say | the model card calls a measurement an estimate |

tests/training/worker/test_energy.py fails where another codecarbon is installed.
"""

from typing import Any

CODECARBON_VERSION = "3.3.2"
"""The codecarbon that these names were read in; constraints.txt pins it."""


def reads_energy_counters(tracker: Any) -> bool:
    """Whether a started tracker reads the processor's energy counters (Intel RAPL), rather than estimates by load."""
    return any(getattr(device, "_mode", None) == "intel_rapl" for device in getattr(tracker, "_hardware", ()))
