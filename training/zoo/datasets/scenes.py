"""Scenes: one to five handwritten digits on a 96x96 black canvas, each with its box, composed of MNIST's.

Canvases are composed from a seed alone. The digits on held-out canvases are on no other one; validation canvases,
which are divided off later, share digits with training ones, and so score a little too well.
"""
# Shapes: N canvases, B rows of a batch, M boxes of a canvas, K channels, H height, W width.

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from training.data.dataset import Dataset
from training.schema import ImageInput
from training.zoo.datasets.digits import digits

SIDE = 96
MOST_DIGITS = 5
SMALLEST, LARGEST = 22, 44  # the side of a 28x28 digit on the canvas, in pixels
INK = 64  # a box is drawn around pixels at least so bright
OVERLAP = 0.1  # most that a box may cover of another, as a share of the smaller one
HELD_OUT_DIGITS = 0.2
NO_BOX = -1.0

Box = tuple[int, int, int, int]
"""Left, top, right, bottom; right and bottom are the first pixels outside."""


def scenes(train: int = 4000, test: int = 1000, seed: int = 42) -> Dataset:
    """Compose canvases: inputs uint8 (N, 1, 96, 96), targets float32 (N, 5, 5) of rows x1, y1, x2, y2, class.

    The last `test` canvases are held out: they show one fifth of the digits of each class, the others show the rest.
    Rows of targets that stand for no digit have class -1.
    """
    source = digits()
    rng = np.random.default_rng(seed)
    pictures, classes = np.asarray(source.inputs)[:, 0], np.asarray(source.targets)
    of_class = [np.flatnonzero(classes == label) for label in range(len(source.labels))]
    cut = [np.split(rng.permutation(rows), [round(len(rows) * HELD_OUT_DIGITS)]) for rows in of_class]
    held_out, shown = (np.concatenate(parts) for parts in zip(*cut, strict=True))

    inputs = np.zeros((train + test, 1, SIDE, SIDE), np.uint8)
    targets = np.zeros((train + test, MOST_DIGITS, 5), np.float32)
    targets[..., 4] = NO_BOX
    for n in range(train + test):
        rows = rng.choice(shown if n < train else held_out, size=rng.integers(1, MOST_DIGITS + 1), replace=False)
        for m, (row, box) in enumerate(_compose(inputs[n, 0], pictures, rows, rng)):
            targets[n, m] = (*box, classes[row])
    return Dataset(
        inputs=torch.from_numpy(inputs),
        targets=torch.from_numpy(targets),
        labels=source.labels,
        input_schema=ImageInput(height=SIDE, width=SIDE, mode="L"),
        source=f"canvases composed of {source.source}",
        license=source.license,
        test_index=torch.arange(train, train + test),
    )


def _compose(
    canvas: NDArray[np.uint8], pictures: NDArray[np.uint8], rows: NDArray[np.int64], rng: np.random.Generator
) -> list[tuple[int, Box]]:
    """Draw the digits of these rows on the canvas; those that find no free place stay away."""
    placed: list[tuple[int, Box]] = []
    for row in rows:
        side, bright = int(rng.integers(SMALLEST, LARGEST + 1)), rng.uniform(0.6, 1.0)
        # Pillow resizes bytes in whole numbers: the same canvas on every machine.
        digit = np.asarray(Image.fromarray(pictures[row]).resize((side, side), Image.Resampling.BILINEAR))
        ys, xs = np.nonzero(digit >= INK)
        left, top, right, bottom = int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1
        ink = digit[top:bottom, left:right]
        for _ in range(20):
            x, y = int(rng.integers(0, SIDE - (right - left) + 1)), int(rng.integers(0, SIDE - (bottom - top) + 1))
            box = x, y, x + right - left, y + bottom - top
            if all(_covered(box, other) <= OVERLAP for _, other in placed):
                part = canvas[box[1] : box[3], box[0] : box[2]]
                np.maximum(part, (ink * bright).astype(np.uint8), out=part)
                placed.append((int(row), box))
                break
    return placed


def _covered(one: Box, other: Box) -> float:
    """What two boxes share, as a share of the smaller one's area."""
    width, height = min(one[2], other[2]) - max(one[0], other[0]), min(one[3], other[3]) - max(one[1], other[1])
    smaller = min((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (one, other))
    return max(0, width) * max(0, height) / smaller


def jitter(
    x: Tensor, boxes: Tensor, generator: torch.Generator, *, scale: float = 0.15, translate: float = 8.0
) -> tuple[Tensor, Tensor]:
    """Scale each canvas along both axes, move it, and its boxes with it.

    Args:
        x: any number type, shape (B, K, H, W).
        boxes: float32, shape (B, M, 5): x1, y1, x2, y2, class.
        generator: where the amounts are drawn from.
        scale: each axis scaled by up to exp(scale) either way.
        translate: moved by up to so many pixels along each axis.

    Returns:
        Canvases, float32 (B, K, H, W), and boxes clipped to them; one that lost more than half its area has class -1.
    """
    size = torch.tensor([x.shape[3], x.shape[2]], dtype=torch.float32)
    zoom = ((torch.rand(len(x), 2, generator=generator) * 2 - 1) * scale).exp()
    move = (torch.rand(len(x), 2, generator=generator) * 2 - 1) * translate
    theta = torch.zeros(len(x), 2, 3)
    # affine_grid asks where each output pixel comes from, in halves of the size from the centre.
    theta[:, :, :2] = torch.diag_embed(1 / zoom)
    theta[:, :, 2] = -move / zoom / (size / 2)
    out = grid_sample(x.float(), affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)

    corners = boxes[:, :, :4].unflatten(2, (2, 2))
    moved = (corners - size / 2) * zoom[:, None, None] + size / 2 + move[:, None, None]
    clipped = torch.minimum(moved.clamp(min=0), size)
    kept = _area(clipped) >= 0.5 * _area(moved)
    classes = torch.where(kept, boxes[:, :, 4], NO_BOX)
    return out, torch.cat([clipped.flatten(2), classes[:, :, None]], dim=2)


def _area(corners: Tensor) -> Tensor:
    """Shape (B, M, 2 corners, x and y) to (B, M)."""
    return (corners[:, :, 1] - corners[:, :, 0]).prod(2)
