"""Images to pixels: the one path from a decoded file to a net's input, in training and in serving.

A picture means what a viewer shows: upright, on white where it is transparent, in sRGB, and of 8 bits a channel. What
has no such meaning (floating point, signed and 32-bit integers, several frames) is refused. Imports neither torch nor
request code, so that Ray Data's read tasks stay small.
"""
# Shapes: K channels, H height, W width.

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, TiffImagePlugin

from training.data import image_parts
from training.errors import UserError

_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
# Values of TIFF's PhotometricInterpretation and SampleFormat.
_MIN_IS_WHITE, _UNSIGNED, _SIGNED = 0, 1, 2
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
        UnsupportedPixels: it has floating-point, signed or 32-bit pixels, or several frames.
        Exception: Pillow's, of any type, for a broken file.
    """
    _refuse_frames(image)
    samples = _describe_samples(image)
    image = ImageOps.exif_transpose(image)
    if image.mode in _SIXTEEN_BITS or (image.mode == "I" and samples.is_unsigned_16_bits):
        image = _reduce_to_8_bits(image, samples)
    elif image.mode in ("I", "F") or samples.is_signed:
        kind = "floating-point" if image.mode == "F" else "signed" if samples.is_signed else "32-bit"
        raise UnsupportedPixels(
            f"it has {kind} pixels, of which none is known to be white; save it with 8 or 16 bits a channel, unsigned"
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


@dataclass(frozen=True)
class _Samples:
    """What a file says of its gray values: the greatest one, and what it stands for."""

    white: int = 65535
    is_inverted: bool = False
    is_signed: bool = False
    is_unsigned_16_bits: bool = False


def _describe_samples(image: Image.Image) -> _Samples:
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        # Pillow scales the 9 to 16 bits of a PGM to 16, in a mode of 32.
        return _Samples(is_unsigned_16_bits=image.format in ("PNG", "PPM"))
    tags = image.tag_v2
    bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0]
    formats = tags.get(TiffImagePlugin.SAMPLEFORMAT, (_UNSIGNED,))
    return _Samples(
        white=2**bits - 1,
        is_inverted=tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == _MIN_IS_WHITE,
        is_signed=_SIGNED in formats,
    )


def _refuse_frames(image: Image.Image) -> None:
    """Refuse an animation, or pages; but not the previews that cameras add to a JPEG (MPO)."""
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise UnsupportedPixels(
            f"it has {getattr(image, 'n_frames', 2)} frames or pages, and a net takes one; save the one that is meant "
            "as a file of its own"
        )


def _reduce_to_8_bits(image: Image.Image, samples: _Samples) -> Image.Image:
    """Scale 0 to white to 0..255; Pillow would cut values above 255."""
    values = np.asarray(image).astype(np.uint32)
    scaled = (values * 255 + samples.white // 2) // samples.white
    reduced = Image.fromarray((255 - scaled if samples.is_inverted else scaled).astype(np.uint8))
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
