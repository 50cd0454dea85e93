"""Images to pixels: the one path from a decoded file to a net's input, in training and in serving.

Imports neither torch nor request code, so that Ray Data's read tasks stay small.
"""
# Shapes: K channels, H height, W width.

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps


def orient_and_convert(image: Image.Image, mode: str) -> Image.Image:
    """Decode an opened image, apply its EXIF orientation, and convert it to `mode`."""
    return ImageOps.exif_transpose(image).convert(mode)


def resize_to_pixels(image: Image.Image, height: int, width: int) -> NDArray[np.uint8]:
    """Resize an oriented image of mode L or RGB; uint8 of shape (K, H, W)."""
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.array(image, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
