"""Example check: a net that gives NaN or infinity for its bundle's own example never takes a request.

Deploy walk: served_model.py -> [example_check.py]
"""

from collections.abc import Iterable

import numpy as np

from deployments.protocols.arrays import Array, Outputs
from training.bundle.manifest import Manifest
from training.errors import UserError

# Of their scores, some may be minus infinity: classes and tokens that a net rules out (a masked logit, exp(-inf) = 0).
_MASKABLE = ("class", "span", "text")
MAX_ROWS = 8


def check_example_outputs(outputs: Iterable[Outputs], manifest: Manifest, variant: str) -> None:
    """Check a net's outputs for the rows of its bundle's example.

    Args:
        outputs: of each row, run by itself; the first dimension of each array is 1.
        manifest: the bundle's.
        variant: that the net is served in.

    Raises:
        UserError: one is NaN or infinite where it must not be.
    """
    is_maskable = manifest.output_schema.kind in _MASKABLE
    for row, arrays in enumerate(outputs):
        for spec, y in zip(manifest.outputs, arrays, strict=True):
            problem = find_invalid(y, is_maskable=is_maskable)
            if problem:
                remedy = "train it again with a lower optimizer.lr, or repair the net and publish it again"
                if variant != "fp32":
                    remedy = f"deploy it in fp32, or {remedy}"
                raise UserError(
                    f"{manifest.name} in {variant}: output {spec.name!r} {problem} for row {row} of the bundle's own "
                    f"example; it takes no requests: {remedy}"
                )


def find_invalid(y: Array, *, is_maskable: bool) -> str:
    """What is wrong with an output; empty where nothing is.

    Args:
        y: any shape; of scores, the last dimension is the classes or tokens.
        is_maskable: whether some, not all, of the last dimension may be minus infinity.
    """
    if y.dtype.kind != "f" or np.isfinite(y).all():
        return ""
    if np.isnan(y).any():
        return "is NaN"
    if not is_maskable or np.isposinf(y).any():
        return "is infinite"
    return "is minus infinity for every class" if np.isneginf(y).all(-1).any() else ""
