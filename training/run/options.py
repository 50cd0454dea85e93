"""Run options: settings of one run that are not part of its recipe.

Train walk: cluster.train -> [options.py] -> driver.py
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from training.errors import UserError
from training.schema import StrictModel


def _parse_bounds(value: object) -> object:
    """Read `3` as exactly three, and `2-4` as from two to four."""
    if not isinstance(value, str):
        return (value, value) if isinstance(value, int) else value
    low, _, high = value.partition("-")
    if not (low.isdecimal() and (high.isdecimal() or (not high and "-" not in value))):
        raise ValueError("write a number of workers, as 2, or bounds, as 2-4")
    return int(low), int(high or low)


class WorkerCount(StrictModel):
    """The number of data-parallel workers; a run with different bounds scales with the cluster between them."""

    bounds: Annotated[tuple[int, int], BeforeValidator(_parse_bounds)]

    @model_validator(mode="after")
    def _validate_order(self) -> WorkerCount:
        low, high = self.bounds
        if low < 1:
            raise ValueError(f"workers {self}: there must be 1 or more")
        if low > high:
            raise ValueError(f"workers {self}: write the lower bound first, as {high}-{low}")
        return self

    def __str__(self) -> str:
        low, high = self.bounds
        return str(low) if low == high else f"{low}-{high}"


class RunOptions(StrictModel):
    """Settings of one run that are not part of its recipe."""

    workers: WorkerCount | None = Field(None, description="None: one per GPU where there are any, else the recipe's.")
    gpus: bool = Field(False, description="Give every worker a GPU even if the cluster has none yet.")
    profile: bool = Field(False, description="Measure every phase of a step; costs a little time.")

    def reject_missing_gpus(self, gpus: float, *, autoscales: bool) -> None:
        """Refuse `--gpus` where workers would wait for them for ever.

        Args:
            gpus: of all nodes.
            autoscales: whether the cluster may grow.

        Raises:
            UserError: there is none, and none can come.
        """
        if self.gpus and not gpus and not autoscales:
            raise UserError(
                "--gpus: no machine of this cluster has a GPU; leave --gpus out, or add a machine with `shoal join`"
            )

    def to_arguments(self) -> list[str]:
        """The same options as arguments of `python -m training.run`."""
        arguments = ["--workers", str(self.workers)] if self.workers else []
        return arguments + ["--gpus"] * self.gpus + ["--profile"] * self.profile
