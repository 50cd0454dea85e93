"""Agreement: whether two versions' answers to the same request say the same.

Rollout walk: shadow.py -> [agreement.py]
Labels, texts and structure must be equal, numbers within TOLERANCE; of a label only itself counts, not its score, and
of a classifier's raw tensors only which class is the highest.
"""

import math
from typing import Any

import msgspec
import numpy as np

from deployments.client.tensors import decode_response

TOLERANCE = 0.05
"""Relative to the larger number."""


def have_same_predictions(stable: bytes, canary: bytes) -> bool:
    """Whether two responses of `predict` agree in every row."""
    return _are_same(*(msgspec.json.decode(body).get("predictions") for body in (stable, canary)))


def have_same_tensors(
    stable: tuple[bytes, int | None], canary: tuple[bytes, int | None], *, is_classifier: bool
) -> bool:
    """Whether two Open Inference Protocol responses agree: bodies with the lengths of their JSON parts."""
    outputs, others = decode_response(*stable), decode_response(*canary)
    if outputs.keys() != others.keys():
        return False
    for name, output in outputs.items():
        other = others[name]
        if output.shape != other.shape or output.dtype != other.dtype:
            return False
        if is_classifier and output.ndim > 1 and output.dtype.kind == "f":
            is_same = np.array_equal(output.argmax(-1), other.argmax(-1))
        elif output.dtype.kind == "f":
            is_same = np.allclose(output, other, rtol=TOLERANCE, atol=1e-6, equal_nan=True)
        else:
            is_same = np.array_equal(output, other)
        if not is_same:
            return False
    return True


def _are_same(value: Any, other: Any) -> bool:
    if isinstance(value, dict) and isinstance(other, dict):
        if "label" in value:
            return bool(value["label"] == other.get("label"))
        return value.keys() == other.keys() and all(_are_same(value[key], other[key]) for key in value)
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(map(_are_same, value, other))
    if isinstance(value, float) or isinstance(other, float):
        is_number = isinstance(value, int | float) and isinstance(other, int | float)
        return is_number and math.isclose(value, other, rel_tol=TOLERANCE, abs_tol=1e-6)
    return bool(value == other)
