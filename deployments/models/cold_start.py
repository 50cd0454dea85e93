"""Cold start: how long the parts of a replica's start took, measured by the replica itself.

Deploy walk: replica.py -> [cold_start.py]
"""

import logging
import time

import psutil

from deployments.models import preload

logger = logging.getLogger("ray.serve")

Phases = dict[str, float]
"""Seconds by phase, in their order: process (from its start to the constructor, without the imports), imports, fetch
(the bundle), load (verify, read, build the variant), warm_up, join (until all edges send requests)."""


class ColdStart:
    """Times the phases of one start."""

    def __init__(self) -> None:
        """Begin, in the replica's constructor."""
        self._last_s = time.time()
        imports_s = preload.ended_s - preload.started_s
        process_s = self._last_s - psutil.Process().create_time() - imports_s
        # A process that waited for its model has both behind it; the constructor has run within moments otherwise.
        self.is_warm = self._last_s - preload.ended_s > WARM_AFTER_S and preload.ended_s > 0
        self.phases: Phases = {"process": 0.0, "imports": 0.0} if self.is_warm else {}
        self.phases = self.phases or {"process": process_s, "imports": imports_s}

    def end_phase(self, phase: str) -> None:
        """End a phase; the next one begins."""
        now_s = time.time()
        self.phases[phase] = self.phases.get(phase, 0.0) + now_s - self._last_s
        self._last_s = now_s

    def log(self, name: str) -> None:
        """Log all phases."""
        parts = ", ".join(f"{phase} {seconds:.2f}" for phase, seconds in self.phases.items())
        kind = "a warm process" if self.is_warm else "a new process"
        logger.info("%s started in %.2f s in %s: %s", name, sum(self.phases.values()), kind, parts)


# From the end of the imports to the constructor Ray and Serve take less in a process that was started for a replica.
WARM_AFTER_S = 1.5
