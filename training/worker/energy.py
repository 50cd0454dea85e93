"""Energy that the machines of a run used while it trained, as codecarbon measures it, without internet access.

Train walk: loop.py -> [energy.py] -> training.bundle.manifest
Where the processor has counters (RAPL) or the GPU has (NVML) it is a measurement; elsewhere codecarbon estimates it
from the processor's rated power and load, and the model card says so.
"""

import threading
from types import TracebackType
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist

from training.bundle.manifest import EnergyCard
from training.worker.codecarbon_internals import reads_energy_counters


class EnergyMeter:
    """Measures within its block; of the workers of one machine, the first does so for the whole machine."""

    def __init__(self, country: str) -> None:
        self._country = country
        self._startup: threading.Thread | None = None
        self._tracker: Any = None
        self._kwh, self._kg_co2, self._method = 0.0, 0.0, ""

    def __enter__(self) -> "EnergyMeter":
        if ray.train.get_context().get_local_rank() == 0:
            # codecarbon examines the processor for seconds, for which training need not wait.
            self._startup = threading.Thread(target=self._start, daemon=True)
            self._startup.start()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._startup:
            self._startup.join()
        if self._tracker is None:
            return
        try:
            self._kg_co2 = float(self._tracker.stop() or 0.0)
            self._kwh = float(self._tracker.final_emissions_data.energy_consumed)
        except Exception:  # as below
            return
        measured = reads_energy_counters(self._tracker)
        self._method = "measured" if measured else "estimated from rated power and load"

    def _start(self) -> None:
        try:
            from codecarbon import OfflineEmissionsTracker

            tracker = OfflineEmissionsTracker(
                # codecarbon requires a country; without the user's own its kilograms are discarded below.
                country_iso_code=self._country or "USA",
                save_to_file=False,
                log_level="critical",
                allow_multiple_runs=True,
            )
            tracker.start()
            self._tracker = tracker
        except Exception:  # whatever a machine's sensors raise: a run does not end for it
            return

    def sum_over_machines(self) -> EnergyCard | None:
        """Return the energy of all machines; None where none was measured. Collective."""
        sums = torch.tensor([self._kwh, self._kg_co2], dtype=torch.float64)
        if dist.is_initialized():
            sums = sums.to(ray.train.torch.get_device())
            dist.all_reduce(sums)
        kwh, kg_co2 = sums.tolist()
        if not kwh:
            return None
        return EnergyCard(kwh=kwh, kg_co2=kg_co2 if self._country else None, country=self._country, method=self._method)
