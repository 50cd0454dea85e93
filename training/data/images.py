"""Pictures to pixels: the one way from a decoded file to what a net takes, in training and in serving.

Knows neither torch nor requests: a process that reads files for a run imports this and little else.
"""
# Shapes: K channels, H height, W width.

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps


def orient_and_convert(image: Image.Image, mode: str) -> Image.Image:
    """Decode an opened picture, turn it as its camera says, and give it the colours of `mode`."""
    return ImageOps.exif_transpose(image).convert(mode)


def resize_to_pixels(image: Image.Image, height: int, width: int) -> NDArray[np.uint8]:
    """Resize an upright picture of mode L or RGB; uint8 of shape (K, H, W)."""
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    found = np.array(image, dtype=np.uint8)
    return found[None] if found.ndim == 2 else found.transpose(2, 0, 1)
