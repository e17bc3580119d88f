"""Photos as data URIs: cut as the network sees them, in the shape that they had."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from multistream.data.decoding import Decoder

SIDE = 224
BYTES = 12_000
"""What a photo may take; quality falls until it does."""


@dataclass(frozen=True)
class Picture:
    """A photo to show: its address, and its size in pixels on the page."""

    uri: str
    width: int
    height: int


def picture(decoder: Decoder, path: Path) -> Picture:
    """The pixels that the network saw; a squashed photo is stretched back to its own shape."""
    seen = Image.fromarray(decoder.read(path).transpose(1, 2, 0))
    width, height = _shape(decoder, path)
    shown = seen.resize((width, height), Image.Resampling.BICUBIC) if max(seen.size) > 96 else seen
    for quality in (95 if shown is seen else 80, 65, 50, 35, 20):
        data = io.BytesIO()
        shown.save(data, "WEBP", quality=quality, method=4)
        if data.tell() <= BYTES:
            break
    return Picture("data:image/webp;base64," + base64.b64encode(data.getvalue()).decode("ascii"), width, height)


def _shape(decoder: Decoder, path: Path) -> tuple[int, int]:
    """Width and height on the page, the longer one SIDE."""
    if decoder.resize == "crop":
        return SIDE, SIDE
    with Image.open(path) as image:
        turned = ImageOps.exif_transpose(image).size if image.getexif().get(0x0112, 1) > 4 else image.size
    longest = max(turned)
    return max(1, round(SIDE * turned[0] / longest)), max(1, round(SIDE * turned[1] / longest))
