"""Yearly sunspot numbers since 1700: a cycle of about 11 years, of which the amplitude is hard to predict."""
# Shapes: Y years, N rows, W years of a window.

import numpy as np
import torch

from training.data.dataset import Dataset
from training.schema import SeriesInput
from training.zoo.datasets.package_files import read_package_file

_TEST_FRACTION = 0.2


def sunspots(window_size: int = 33) -> Dataset:
    """Yearly sunspot numbers, 1700-2008, each to be predicted from the years before it, from statsmodels.

    Inputs are float32 (N, W, 1), targets float32 (N,). The last fifth of the years is held out, so that the score is on
    unseen future years; their windows may reach back before that boundary, as in use.

    Args:
        window_size: W; three cycles of 11 years by default.
    """
    content = read_package_file(
        "statsmodels",
        "datasets/sunspots/sunspots.csv",
        "f67889b1d9002cd5227f0e0ef54e35b419cdd85a31279adef6f73fb41e5c0a9b",
        "pip install --no-deps statsmodels==0.15.0",
    )
    series_Y = torch.from_numpy(
        np.loadtxt(content.decode().splitlines(), delimiter=",", skiprows=1, dtype=np.float32)[:, 1]
    )
    targets_N = series_Y[window_size:].clone()
    test_start = len(series_Y) - round(len(series_Y) * _TEST_FRACTION)
    return Dataset(
        # The last window has no year after it.
        inputs=series_Y.unfold(0, window_size, 1)[:-1].unsqueeze(2).contiguous(),
        targets=targets_N,
        labels=("sunspots",),
        input_schema=SeriesInput(features=("sunspots",), max_time_steps=window_size),
        source="Yearly sunspot numbers, 1700-2008 (National Geophysical Data Center), as statsmodels ships them",
        license="public domain, as statsmodels states",
        test_index=torch.arange(test_start - window_size, len(targets_N)),
    )
