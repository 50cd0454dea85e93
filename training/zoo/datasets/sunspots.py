"""Sunspots of each year since 1700: a cycle of about 11 years whose height nobody foresees well."""
# Shapes: Y years, N rows, W years of a window.

import numpy as np
import torch

from training.data.dataset import Dataset
from training.schema import SeriesInput
from training.zoo.datasets.packaged import packaged

_HELD_OUT = 0.2


def sunspots(window: int = 33) -> Dataset:
    """Yearly sunspot numbers, 1700-2008, each to be foretold from the `window` years before it, from statsmodels.

    The last fifth of the years is held out, so a net is judged on a future that it has not seen; a window may look
    back over that border, as a forecaster does.

    Args:
        window: years that one row shows; three cycles of 11 years by default.
    """
    raw = packaged(
        "statsmodels",
        "datasets/sunspots/sunspots.csv",
        "f67889b1d9002cd5227f0e0ef54e35b419cdd85a31279adef6f73fb41e5c0a9b",
        "pip install --no-deps statsmodels==0.15.0",
    )
    series_Y = torch.from_numpy(
        np.loadtxt(raw.decode().splitlines(), delimiter=",", skiprows=1, dtype=np.float32)[:, 1]
    )
    targets_N = series_Y[window:].clone()
    first_held_out = len(series_Y) - round(len(series_Y) * _HELD_OUT)
    return Dataset(
        # The last window has no year after it.
        inputs=series_Y.unfold(0, window, 1)[:-1].unsqueeze(2).contiguous(),
        targets=targets_N,
        labels=("sunspots",),
        input_schema=SeriesInput(features=("sunspots",), max_time_steps=window),
        source="Yearly sunspot numbers, 1700-2008 (National Geophysical Data Center), as statsmodels ships them",
        license="public domain, as statsmodels states",
        test_index=torch.arange(first_held_out - window, len(targets_N)),
    )
