"""Augmentation: random transforms of training batches; never applied to held-out rows or to served requests."""
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
    """Rotate, scale, shear and translate each image, every amount drawn uniformly per image.

    Args:
        x: any number type, shape (B, K, H, W).
        targets: returned unchanged.
        generator: source of the random amounts.
        degrees: maximum rotation either way.
        scale: each axis is scaled by a factor in exp(-scale)..exp(scale).
        shear: maximum shear factor either way.
        translate: maximum translation along each axis, in pixels.

    Returns:
        float32, shape (B, K, H, W), with zeros where the transform reaches outside the image; and the targets.
    """
    batch_size, height, width = len(x), x.shape[2], x.shape[3]

    def draw_uniform(limit: float) -> Tensor:
        return (torch.rand(batch_size, generator=generator) * 2 - 1) * limit

    angle, shear_factor = draw_uniform(math.radians(degrees)), draw_uniform(shear)
    scale_x, scale_y = draw_uniform(scale).exp(), draw_uniform(scale).exp()
    cos, sin = angle.cos(), angle.sin()
    theta = torch.empty(batch_size, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = cos * scale_x, (cos * shear_factor - sin) * scale_y
    theta[:, 1, 0], theta[:, 1, 1] = sin * scale_x, (sin * shear_factor + cos) * scale_y
    theta[:, 0, 2], theta[:, 1, 2] = draw_uniform(2 * translate / width), draw_uniform(2 * translate / height)
    grid = affine_grid(theta, list(x.shape), align_corners=False)
    return grid_sample(x.float(), grid, align_corners=False), targets
