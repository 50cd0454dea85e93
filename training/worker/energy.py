"""Energy: what the machines of a run drew while it trained, as codecarbon tells it, without asking the internet.

Where the processor has counters (RAPL) or the GPU has (NVML) that is a measurement; elsewhere codecarbon estimates from
the processor's rated power and load, and the card says so.
"""

import threading
from types import TracebackType
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist

from training.bundle.manifest import EnergyCard


class EnergyMeter:
    """Measures one machine, whichever number of workers it has; use as a context manager."""

    def __init__(self, country: str, rank: int) -> None:
        self._country, self._rank = country, rank
        self._starting: threading.Thread | None = None
        self._tracker: Any = None
        self._kwh, self._kg, self._how = 0.0, 0.0, ""

    def __enter__(self) -> "EnergyMeter":
        if ray.train.get_context().get_local_rank() == 0:
            # codecarbon looks at the processor for seconds before it returns; training need not wait for it.
            self._starting = threading.Thread(target=self._start, daemon=True)
            self._starting.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._starting:
            self._starting.join()
        if self._tracker is None:
            return
        try:
            self._kg = float(self._tracker.stop() or 0.0)
            self._kwh = float(self._tracker.final_emissions_data.energy_consumed)
        except Exception:
            return
        modes = {getattr(part, "_mode", None) for part in self._tracker._hardware} - {None}
        self._how = "measured" if modes == {"intel_rapl"} else "estimated from rated power and load"

    def _start(self) -> None:
        try:
            from codecarbon import OfflineEmissionsTracker

            tracker = OfflineEmissionsTracker(
                # codecarbon wants one; without ours its kilograms are thrown away below.
                country_iso_code=self._country or "USA",
                save_to_file=False,
                log_level="critical",
                allow_multiple_runs=True,
            )
            tracker.start()
            self._tracker = tracker
        except Exception:  # whatever a machine's sensors make it raise: a run does not end for it
            return

    def sum_over_machines(self) -> EnergyCard | None:
        """The sum; None where nothing could be told. All workers must ask for it."""
        sums = torch.tensor([self._kwh, self._kg], dtype=torch.float64)
        if dist.is_initialized():
            sums = sums.to(ray.train.torch.get_device())
            dist.all_reduce(sums)
        kwh, kg = sums.tolist()
        if not kwh:
            return None
        return EnergyCard(kwh=kwh, kg_co2=kg if self._country else None, country=self._country, method=self._how)
