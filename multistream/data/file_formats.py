"""File formats: those that are decoded, and those that are recognised by their first bytes and rejected by name."""

from __future__ import annotations

import posixpath

ALLOWED = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""Pillow's names of the formats that may be decoded; few, because every decoder can be attacked by a malicious file."""

SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"),
        # Formats of phones and archives: rejected by name, because skipping them would go unnoticed.
        *(".heic", ".heif", ".hif", ".jxl", ".jp2"),
    )
)
"""Suffixes of image files, in lower case; not all of these formats are decoded."""


def is_image(path: str) -> bool:
    """Whether a path has the suffix of an image file."""
    return posixpath.splitext(path)[1].lower() in SUFFIXES


_SIGNATURES = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (8, b"WEBP", "WEBP"),
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),
    (0, b"MM\0+", "TIFF"),
    (4, b"ftypavi", "AVIF"),
    (0, b"%!PS", "EPS"),
    (0, b"\xc5\xd0\xd3\xc6", "EPS"),
    (0, b"%PDF", "PDF"),
    (0, b"8BPS", "PSD"),
    (0, b"\0\0\0\x0cjP  ", "JPEG2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG2000"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    *((4, b"ftyp" + brand, "HEIC") for brand in (b"hei", b"hev", b"mif1", b"msf1")),
    (4, b"ftyp", "video (MP4 or MOV)"),
    (0, b"\0\0\1\0", "ICO"),
    (0, b"icns", "ICNS"),
    (0, b"DDS ", "DDS"),
    (0, b"qoif", "QOI"),
    (0, b"gimp xcf", "XCF"),
    (0, b"\x01\xda", "SGI"),
    (0, b"/* XPM */", "XPM"),
    (0, b"\xd7\xcd\xc6\x9a", "WMF"),
    *((0, b"P%d" % kind, "PPM") for kind in range(1, 8)),
)


def recognise(data: bytes) -> str:
    """The name of a file's format, from its first bytes; "" if it is unknown.

    >>> recognise(b"%!PS-Adobe-3.0 EPSF-3.0")
    'EPS'
    """
    found = (name for place, signature, name in _SIGNATURES if data.startswith(signature, place))
    return next(found, "SVG" if b"<svg" in data[:2048].lower() else "")
