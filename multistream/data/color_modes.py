"""Converts images of all Pillow modes to RGB, or to RGBA if there is alpha, with correct scaling of values."""

from __future__ import annotations

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

_BITS_PER_SAMPLE = 258
_PHOTOMETRIC = 262
_WHITE_IS_ZERO = 0


class CannotConvert(Exception):
    """Pixels with an unknown scale."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts `image` to RGB, or RGBA if it has transparency; CannotConvert if its values have no known scale.

    Pillow's own conversion makes 16-bit grey white and float values black.
    """
    if image.mode.startswith("I;16"):
        return _from_16_bits(image).convert("RGB")
    if image.mode == "F":
        raise CannotConvert("floating-point values without a known scale")
    if image.mode == "I":
        raise CannotConvert("integer values without a known scale")
    wanted = "RGBA" if image.has_transparency_data else "RGB"
    return image if image.mode == wanted else image.convert(wanted)


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Converts grey values of 16 bits, or of the bits that a TIFF declares, such as 12, to 8 bits, rounded."""
    top, inverted = 2**16 - 1, False
    if isinstance(image, TiffImageFile):
        top = 2 ** image.tag_v2.get(_BITS_PER_SAMPLE, (16,))[0] - 1
        inverted = image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    levels = (np.minimum(np.arange(2**16, dtype=np.int64), top) * 255 + top // 2) // top
    table = (255 - levels if inverted else levels).astype(np.uint8)
    return Image.fromarray(table[np.asarray(image)])
