"""Augmentation: how a training batch is varied; never held-out rows, never a served request."""
# Shapes: B rows, K channels, H height, W width.

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample


def random_affine(
    x: Tensor,
    targets: Tensor,
    generator: torch.Generator,
    *,
    degrees: float = 18.0,
    scale: float = 0.2,
    shear: float = 0.25,
    translate: float = 3.0,
) -> tuple[Tensor, Tensor]:
    """Turn, scale, shear and move each picture by its own random amounts.

    Args:
        x: any number type, shape (B, K, H, W).
        targets: left as they are.
        generator: where the amounts are drawn from.
        degrees: turned by up to so much either way.
        scale: each axis scaled by up to exp(scale) either way.
        shear: up to so much either way.
        translate: moved by up to so many pixels along each axis.

    Returns:
        float32, shape (B, K, H, W), where what comes in from outside is 0; and the targets.
    """
    rows, height, width = len(x), x.shape[2], x.shape[3]

    def draw(most: float) -> Tensor:
        return (torch.rand(rows, generator=generator) * 2 - 1) * most

    angle, skew = draw(math.radians(degrees)), draw(shear)
    scale_x, scale_y = draw(scale).exp(), draw(scale).exp()
    cos, sin = angle.cos(), angle.sin()
    theta = torch.empty(rows, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = cos * scale_x, (cos * skew - sin) * scale_y
    theta[:, 1, 0], theta[:, 1, 1] = sin * scale_x, (sin * skew + cos) * scale_y
    theta[:, 0, 2], theta[:, 1, 2] = draw(2 * translate / width), draw(2 * translate / height)
    grid = affine_grid(theta, list(x.shape), align_corners=False)
    return grid_sample(x.float(), grid, align_corners=False), targets
