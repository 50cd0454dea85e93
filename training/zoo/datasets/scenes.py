"""Scenes: one to five MNIST digits on a 96x96 black canvas, each with its box. Synthetic: composed from a seed.

Test canvases share no digit with the others; validation canvases, which are split off later, share digits with training
ones, so that validation scores are slightly optimistic.
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

CANVAS_SIZE = 96
MAX_DIGITS = 5
# Side length of a 28x28 digit on the canvas, in pixels.
MIN_DIGIT_SIZE, MAX_DIGIT_SIZE = 22, 44
# A box encloses the pixels of at least this value.
INK_THRESHOLD = 64
# Maximum intersection of two boxes, as a share of the smaller one's area.
MAX_OVERLAP = 0.1
MAX_PLACEMENT_ATTEMPTS = 20
TEST_DIGITS_FRACTION = 0.2
# Class of a padding row of the targets.
NO_OBJECT = -1.0

Box = tuple[int, int, int, int]
"""Left, top, right, bottom; right and bottom are the first pixels outside."""


def scenes(train_size: int = 4000, test_size: int = 1000, seed: int = 42) -> Dataset:
    """Compose canvases: inputs uint8 (N, 1, 96, 96), targets float32 (N, 5, 5) of rows x1, y1, x2, y2, class.

    The last `test_size` canvases are the test split: they show one fifth of the digits of each class, the others show
    the rest. Padding rows of the targets have class -1.
    """
    mnist = digits()
    rng = np.random.default_rng(seed)
    images, classes = np.asarray(mnist.inputs)[:, 0], np.asarray(mnist.targets)
    rows_by_class = [np.flatnonzero(classes == label) for label in range(len(mnist.labels))]
    splits = [np.split(rng.permutation(rows), [round(len(rows) * TEST_DIGITS_FRACTION)]) for rows in rows_by_class]
    test_rows, train_rows = (np.concatenate(split) for split in zip(*splits, strict=True))

    inputs = np.zeros((train_size + test_size, 1, CANVAS_SIZE, CANVAS_SIZE), np.uint8)
    targets = np.zeros((train_size + test_size, MAX_DIGITS, 5), np.float32)
    targets[..., 4] = NO_OBJECT
    for n in range(train_size + test_size):
        pool = train_rows if n < train_size else test_rows
        rows = rng.choice(pool, size=rng.integers(1, MAX_DIGITS + 1), replace=False)
        for m, (row, box) in enumerate(_draw_digits(inputs[n, 0], images, rows, rng)):
            targets[n, m] = (*box, classes[row])
    return Dataset(
        inputs=torch.from_numpy(inputs),
        targets=torch.from_numpy(targets),
        labels=mnist.labels,
        input_schema=ImageInput(height=CANVAS_SIZE, width=CANVAS_SIZE, mode="L"),
        source=f"synthetic canvases composed of {mnist.source}",
        license=mnist.license,
        test_index=torch.arange(train_size, train_size + test_size),
    )


def _draw_digits(
    canvas: NDArray[np.uint8], images: NDArray[np.uint8], rows: NDArray[np.int64], rng: np.random.Generator
) -> list[tuple[int, Box]]:
    """Draw the digits of these rows on the canvas; one that finds no free position is left out."""
    drawn: list[tuple[int, Box]] = []
    for row in rows:
        size, brightness = int(rng.integers(MIN_DIGIT_SIZE, MAX_DIGIT_SIZE + 1)), rng.uniform(0.6, 1.0)
        # Pillow resizes uint8 in integer arithmetic: the same canvas on every machine.
        digit = np.asarray(Image.fromarray(images[row]).resize((size, size), Image.Resampling.BILINEAR))
        ys, xs = np.nonzero(digit >= INK_THRESHOLD)
        crop = digit[int(ys.min()) : int(ys.max()) + 1, int(xs.min()) : int(xs.max()) + 1]
        height, width = crop.shape
        for _ in range(MAX_PLACEMENT_ATTEMPTS):
            left, top = int(rng.integers(0, CANVAS_SIZE - width + 1)), int(rng.integers(0, CANVAS_SIZE - height + 1))
            box = left, top, left + width, top + height
            if all(_overlap(box, other) <= MAX_OVERLAP for _, other in drawn):
                region = canvas[top : top + height, left : left + width]
                np.maximum(region, (crop * brightness).astype(np.uint8), out=region)
                drawn.append((int(row), box))
                break
    return drawn


def _overlap(one: Box, other: Box) -> float:
    """Intersection of two boxes, as a share of the smaller one's area."""
    width, height = min(one[2], other[2]) - max(one[0], other[0]), min(one[3], other[3]) - max(one[1], other[1])
    smaller = min((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (one, other))
    return max(0, width) * max(0, height) / smaller


def jitter(
    x: Tensor, boxes: Tensor, generator: torch.Generator, *, scale: float = 0.15, translate: float = 8.0
) -> tuple[Tensor, Tensor]:
    """Scale each image along both axes and translate it, and its boxes with it.

    Args:
        x: any number type, shape (B, K, H, W).
        boxes: float32, shape (B, M, 5): x1, y1, x2, y2, class.
        generator: source of the random amounts.
        scale: each axis is scaled by a factor in exp(-scale)..exp(scale).
        translate: maximum translation along each axis, in pixels.

    Returns:
        float32, shape (B, K, H, W), and the boxes clipped to the image; a box of which less than half the area is left
        has class -1.
    """
    size = torch.tensor([x.shape[3], x.shape[2]], dtype=torch.float32)
    factor = ((torch.rand(len(x), 2, generator=generator) * 2 - 1) * scale).exp()
    shift = (torch.rand(len(x), 2, generator=generator) * 2 - 1) * translate
    theta = torch.zeros(len(x), 2, 3)
    # affine_grid maps output to input coordinates, in half sizes from the center.
    theta[:, :, :2] = torch.diag_embed(1 / factor)
    theta[:, :, 2] = -shift / factor / (size / 2)
    x = grid_sample(x.float(), affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)

    corners = boxes[:, :, :4].unflatten(2, (2, 2))
    transformed = (corners - size / 2) * factor[:, None, None] + size / 2 + shift[:, None, None]
    clipped = torch.minimum(transformed.clamp(min=0), size)
    is_visible = _area(clipped) >= 0.5 * _area(transformed)
    classes = torch.where(is_visible, boxes[:, :, 4], NO_OBJECT)
    return x, torch.cat([clipped.flatten(2), classes[:, :, None]], dim=2)


def _area(corners: Tensor) -> Tensor:
    """Area of boxes given as corners: (B, M, 2, 2) to (B, M)."""
    return (corners[:, :, 1] - corners[:, :, 0]).prod(2)
