"""Every mode of Pillow's brought to RGB, or to RGBA where there is alpha, with values scaled as they are meant."""

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
    """`image` in mode RGB, or RGBA where it has transparency; CannotConvert where values have no known scale.

    Pillow's own conversion turns 16-bit grey white and float black.
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
    """Grey of 16 bits, or of the 12 that a TIFF may state, to 8: the nearest of value / 257."""
    top, inverted = 2**16 - 1, False
    if isinstance(image, TiffImageFile):
        top = 2 ** image.tag_v2.get(_BITS_PER_SAMPLE, (16,))[0] - 1
        inverted = image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    levels = (np.minimum(np.arange(2**16, dtype=np.int64), top) * 255 + top // 2) // top
    table = (255 - levels if inverted else levels).astype(np.uint8)
    return Image.fromarray(table[np.asarray(image)])
