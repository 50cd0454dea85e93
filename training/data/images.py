"""Images to pixels: the one path from a decoded file to a net's input, in training and in serving.

A picture means what a viewer shows: upright, on white where it is transparent, in sRGB, and of 8 bits a channel. What
has no such meaning (floating point, 32-bit integers) is refused. Imports neither torch nor request code, so that Ray
Data's read tasks stay small.
"""
# Shapes: K channels, H height, W width.

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from training.data import image_parts
from training.errors import UserError

_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
# sRGB is nearly this; a PNG's gAMA chunk says how its own values relate to light.
_SRGB_GAMMA = 1 / 2.2
_GAMMA_TOLERANCE = 0.02


class UnsupportedPixels(UserError):
    """An image whose values have no meaning of their own: which of them is white is not known."""


def open_image(content: bytes, formats: tuple[str, ...] | None = None) -> Image.Image:
    """Open an image file, whose pixels are not decoded yet.

    Args:
        content: the file.
        formats: Pillow's names of the formats that are tried; None for all.

    Raises:
        TooManyParts: it would take far longer to decode than its pixels suggest.
        Exception: Pillow's, of any type, for what is no image.
    """
    image_parts.check_parts(content)
    image = Image.open(io.BytesIO(content), formats=formats)
    image_parts.check_tiles(image)
    return image


def orient_and_convert(image: Image.Image, mode: str) -> Image.Image:
    """Decode an opened image, apply its EXIF orientation, and convert it to `mode` as a viewer shows it.

    Raises:
        UnsupportedPixels: it has floating-point or 32-bit pixels.
        Exception: Pillow's, of any type, for a broken file.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode in _SIXTEEN_BITS or (image.mode == "I" and image.format == "PNG"):
        image = _reduce_to_8_bits(image)
    elif image.mode in ("I", "F"):
        raise UnsupportedPixels(
            f"it has {'floating-point' if image.mode == 'F' else '32-bit'} pixels, of which none is known to be "
            "white; save it with 8 or 16 bits a channel"
        )
    image = _convert_to_srgb(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def resize_to_pixels(image: Image.Image, height: int, width: int) -> NDArray[np.uint8]:
    """Resize an oriented image of mode L or RGB; uint8 of shape (K, H, W)."""
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.array(image, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _reduce_to_8_bits(image: Image.Image) -> Image.Image:
    """Scale 0..65535 to 0..255; Pillow would cut values above 255."""
    values = np.asarray(image).astype(np.uint32)
    reduced = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    reduced.info = {key: value for key, value in image.info.items() if key != "transparency"}
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        alpha = Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))
        reduced = Image.merge("LA", (reduced, alpha))
    return reduced


def _convert_to_srgb(image: Image.Image) -> Image.Image:
    """Apply an embedded color profile, or a PNG's gamma; a broken profile is ignored, as viewers do."""
    profile = image.info.get("icc_profile")
    if profile:
        return _apply_profile(image, profile)
    gamma = image.info.get("gamma")
    if not gamma or "srgb" in image.info or abs(gamma - _SRGB_GAMMA) < _GAMMA_TOLERANCE or not 0.01 < gamma < 100:
        return image
    has_alpha = image.has_transparency_data
    image = image.convert("RGBA" if has_alpha else "RGB")
    table = [round(255 * (value / 255) ** (_SRGB_GAMMA / gamma)) for value in range(256)]
    return image.point(table * 3 + (list(range(256)) if has_alpha else []))


def _apply_profile(image: Image.Image, profile: bytes) -> Image.Image:
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    if image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("L" if image.mode in ("1", "LA") else "RGB")
    try:
        embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" not in ImageCms.getProfileDescription(embedded):
            converted = ImageCms.profileToProfile(image, embedded, ImageCms.createProfile("sRGB"), outputMode="RGB")
            image = converted or image
    except (ImageCms.PyCMSError, OSError, ValueError):
        pass
    if alpha is not None:
        image = image.convert("RGB")
        image.putalpha(alpha)
    return image
