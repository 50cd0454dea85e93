"""What became of the requests of a load: counts, latencies, goodput, and the same over time."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.float64]

# Outcomes without a status.
CONNECT_FAILED = "connect_failed"
DISCONNECTED = "disconnected"
NO_ANSWER = "no_answer"
MALFORMED = "malformed"


@dataclass(frozen=True)
class Outcomes:
    """What became of each request, in the order of their schedule; times in seconds since the start.

    Attributes:
        started_s: the start on the clock of time.monotonic().
        scheduled_s: when each should be sent.
        sent_s: when it was given to a connection; NaN where none was free until its timeout.
        finished_s: when its answer was complete, or it failed; NaN while it waits.
        status: of the response; 0 without one.
        error: what `inspect` returned, or why there is no response; "" where there is one.
    """

    started_s: float
    scheduled_s: Times
    sent_s: Times
    finished_s: Times
    status: npt.NDArray[np.int64]
    error: npt.NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.scheduled_s)

    @property
    def latency_s(self) -> Times:
        """From the scheduled arrival to the end of the answer."""
        return self.finished_s - self.scheduled_s

    @property
    def labels(self) -> npt.NDArray[np.str_]:
        """Each one's outcome: its error, or else its status; "pending" where there is neither yet."""
        status = np.where(self.status > 0, self.status.astype(np.str_), "pending")
        return np.where(self.error == "", status, self.error)

    @property
    def is_ok(self) -> npt.NDArray[np.bool_]:
        """Whether each was answered with a 2xx that `inspect` took."""
        return (self.status // 100 == 2) & (self.error == "")

    def select(self, mask: npt.NDArray[Any]) -> "Outcomes":
        """Return those of a mask or an index, for example of one priority."""
        fields = (self.scheduled_s, self.sent_s, self.finished_s, self.status, self.error)
        return Outcomes(self.started_s, *(field[mask] for field in fields))  # type: ignore[arg-type]

    def count(self) -> dict[str, int]:
        """How many have each outcome; the sum is every request."""
        return dict(sorted(Counter(self.labels.tolist()).items()))

    def quantile_s(self, share: float) -> float:
        """Quantile of the latency of those that were answered well; NaN without any."""
        latency_s = self.latency_s[self.is_ok]
        return float(np.quantile(latency_s, share)) if len(latency_s) else float("nan")

    def goodput(self, deadline_s: float) -> float:
        """Good answers per second of the schedule that came within a deadline."""
        return float((self.latency_s[self.is_ok] <= deadline_s).sum() / self._duration_s)

    @property
    def _duration_s(self) -> float:
        return float(self.scheduled_s[-1] - self.scheduled_s[0]) if len(self) > 1 else 1.0

    def summarize(self, deadline_s: float = float("inf")) -> dict[str, Any]:
        """Return counts, rates and quantiles.

        `send_lag_p99_s` and `send_lag_max_s` say how late the client itself was: where they are not far below the
        latencies, it was too slow for its schedule, or had no connection left, and measured itself.
        """
        lag_s = np.nan_to_num(self.sent_s - self.scheduled_s, nan=np.inf)
        return {
            "requests": len(self),
            "outcomes": self.count(),
            "offered_per_s": round(len(self) / self._duration_s, 1),
            "goodput_per_s": round(self.goodput(deadline_s), 1),
            **{f"p{p}_s": round(self.quantile_s(p / 100), 5) for p in (50, 99)},
            "max_s": round(self.quantile_s(1.0), 5),
            "send_lag_p99_s": round(float(np.quantile(lag_s, 0.99)), 5) if len(self) else 0.0,
            "send_lag_max_s": round(float(lag_s.max(initial=0)), 5),
        }

    def timeline(self, interval_s: float = 1.0) -> list[dict[str, Any]]:
        """Return one row for each interval of scheduled arrivals: its start, the counts of outcomes, p50 and p99."""
        interval = (self.scheduled_s // interval_s).astype(int)
        rows = []
        for number in range(int(interval[-1]) + 1 if len(self) else 0):
            part = self.select(interval == number)
            quantiles = {f"p{p}_s": part.quantile_s(p / 100) for p in (50, 99)}
            rows.append({"at_s": number * interval_s, "requests": len(part), "outcomes": part.count(), **quantiles})
        return rows
