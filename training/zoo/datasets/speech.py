"""Recorded speech as LPC cepstra: two vowels by nine speakers."""
# Shapes: T time steps of one utterance (7 to 29), F=12 coefficients.

import numpy as np
import torch
from torch import Tensor

from training.data.dataset import Dataset
from training.schema import SeriesInput
from training.zoo.datasets.package_files import read_package_file

_FILES = {
    "JapaneseVowels_TRAIN.ts": "68a430eabd919cc77f40b1f5f3bc0dcafacc1486bca9260785aeb7d262cc78cd",
    "JapaneseVowels_TEST.ts": "b3d41d6a0ca3bcad3afb9ca7d4365382aa51341e2e58bae2a574babdda5b9462",
}
_NUM_SPEAKERS = 9
_NUM_COEFFICIENTS = 12
# The longest utterance has 29 time steps; far beyond that, predictions are extrapolation.
_MAX_TIME_STEPS = 64


def speaker() -> Dataset:
    """640 utterances of the vowels /ae/ by nine men, as LPC cepstra (Kudo, Toyama, Shimbo, 1999), from aeon.

    Inputs are float32 (T, F), targets int64 (640,). Both files of the set are joined: its own split leaves 30 training
    utterances per speaker.
    """
    inputs, speakers = [], []
    for file, sha256 in _FILES.items():
        content = read_package_file(
            "aeon", f"datasets/data/JapaneseVowels/{file}", sha256, "pip install --no-deps aeon==1.6.0"
        )
        for line in content.decode().splitlines():
            if line and line[0] not in "#@":
                x_TF, number = _parse_utterance(line)
                inputs.append(x_TF)
                speakers.append(number - 1)
    return Dataset(
        inputs=inputs,
        targets=torch.tensor(speakers),
        labels=tuple(f"speaker {number}" for number in range(1, _NUM_SPEAKERS + 1)),
        input_schema=SeriesInput(
            features=tuple(f"LPC cepstrum {number}" for number in range(1, _NUM_COEFFICIENTS + 1)),
            max_time_steps=_MAX_TIME_STEPS,
        ),
        source="Japanese Vowels (Kudo, Toyama, Shimbo, 1999; UCI), as aeon ships it",
        license="CC BY 4.0",
    )


def _parse_utterance(line: str) -> tuple[Tensor, int]:
    """Parse one line of a .ts file, "x,x,...:x,x,...:label": one list per coefficient, then the speaker's number."""
    *series, label = line.split(":")
    x_FT = np.array([values.split(",") for values in series], dtype=np.float32)
    return torch.from_numpy(x_FT.T.copy()), int(label)
