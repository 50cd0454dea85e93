"""Wall clock: finds out that it was set back, which those who wait for a time of it do not.

Deploy walk: directory.py -> [wall_clock.py]
"""

import time

# Less is no matter: who waits for a time waits so much longer.
MIN_SETBACK_S = 5.0


class WallClock:
    """The system's wall clock beside its monotonic one, which nobody sets."""

    def __init__(self) -> None:
        self._ahead_s = self._measure_ahead_s()

    def measure_setback_s(self) -> float:
        """Seconds by which the clock was set back since the last call; 0 for less than MIN_SETBACK_S, or forward."""
        before_s, self._ahead_s = self._ahead_s, self._measure_ahead_s()
        setback_s = before_s - self._ahead_s
        return setback_s if setback_s >= MIN_SETBACK_S else 0.0

    @staticmethod
    def _measure_ahead_s() -> float:
        return time.time() - time.monotonic()
