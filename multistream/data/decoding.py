"""Decoding: converts an image file to uint8 RGB (3, S, S), or raises a BadImage with the reason.

Files are never changed, truncated images are rejected, and the size in the header is checked before decoding.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from multistream.data import png
from multistream.data.color_modes import CannotConvert, to_rgb
from multistream.data.file_formats import ALLOWED, recognise
from multistream.errors import DataError, UsageError, printable

RULES = 1
"""Version of the pixels, part of cache keys: increase it with every change here that may change a pixel."""

_BYTES_PER_PIXEL = 8
"""The most bytes per pixel that a file may have: those of uncompressed 16-bit RGBA."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The operation that undoes each EXIF orientation (EXIF 2.32, tag 0x0112)."""


class BadImage(DataError):
    """A file that cannot be used as a photo: its `path`, a short fixed text as the `reason`, and details."""

    def __init__(self, path: Path, reason: str, detail: str = "") -> None:
        super().__init__(printable(os.fspath(path)), f"{reason}{f' ({detail})' if detail else ''}.")
        self.path, self.reason, self.detail = path, reason, detail

    def __reduce__(self) -> tuple[type[BadImage], tuple[Path, str, str]]:
        """For copies between processes: by default an exception is rebuilt from its message."""
        return BadImage, (self.path, self.reason, self.detail)


@dataclass(frozen=True)
class Photo:
    """One decoded file: `pixels` uint8 (3, S, S) RGB, and `notes` on ignored content of the file."""

    pixels: NDArray[np.uint8]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Encoded:
    """A file to be decoded in one call with others: its content, and the `size` (width, height) in its header."""

    data: bytes
    path: Path
    size: tuple[int, int]
    turn: Image.Transpose | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Decoder:
    """Decodes files to the pixels that streams read; the same in training, evaluation and prediction.

    `size` is S in pixels. `resize` "squash" scales both sides to S (paper section 2), "crop" takes the central square.
    Images with more than `max_pixels` in memory or a side below `min_side` are rejected. Transparent images are blended
    over `background`, RGB. `draft` allows optimisations that change a pixel by less than one grey level on average:
    large JPEGs are decoded at 1/2, 1/4 or 1/8 as long as both sides are at least S.

    >>> Decoder(size=64).resize
    'squash'
    """

    size: int
    _: KW_ONLY
    resize: Literal["squash", "crop"] = "squash"
    max_pixels: int = 64_000_000
    min_side: int = 8
    background: tuple[int, int, int] = (255, 255, 255)
    draft: bool = True

    def __post_init__(self) -> None:
        most = 2 * (Image.MAX_IMAGE_PIXELS or self.max_pixels)
        limit = f"It must be from 1 to {most:,}, the limit of Pillow."
        is_colour = len(self.background) == 3 and all(0 <= value <= 255 for value in self.background)
        sizes = (self.size, self.min_side)
        checks = (
            (self.resize in BOXES, ".resize", f"{self.resize!r} is unknown.", "It must be 'squash' or 'crop'."),
            (min(sizes) >= 1, "", f"size {self.size} and min_side {self.min_side}.", "They must be at least 1."),
            (1 <= self.max_pixels <= most, ".max_pixels", f"{self.max_pixels:,} is out of range.", limit),
            (is_colour, ".background", f"{self.background} is not a colour.", "Use three values from 0 to 255."),
        )
        for is_right, name, what, right in checks:
            if not is_right:
                raise UsageError(f"data{name}", what, right=right)

    @property
    def version(self) -> str:
        """Everything that decoded pixels depend on, as text for cache keys."""
        colour = "-".join(map(str, self.background))
        limits = f"min {self.min_side} max {self.max_pixels}"
        draft = " draft" if self.draft else ""
        return f"rules {RULES} pillow {PIL.__version__} {self.resize} {self.size}{draft} over {colour} {limits}"

    @property
    def max_bytes(self) -> int:
        """The most bytes that a file may have."""
        return self.max_pixels * _BYTES_PER_PIXEL + 2**20

    def read(self, path: Path) -> NDArray[np.uint8]:
        """The photo at `path` as contiguous uint8 (3, S, S) RGB; BadImage if it cannot be decoded."""
        return self.examine(path).pixels

    def examine(self, path: Path) -> Photo:
        """As `read`, with notes on ignored content: later frames, texts that are too large, unreadable EXIF."""
        data = self.content(Path(path))
        return self.decode(data, path=Path(path))

    def decode(self, data: bytes, *, path: Path) -> Photo:
        """As `examine`, for the file's content; `path` is for messages."""
        is_png = data.startswith(png.SIGNATURE)
        if wrong := png.fault(data) if data else "empty":
            raise BadImage(path, wrong)
        # Pillow's decoders may raise any exception on a damaged file: struct.error, KeyError, zlib.error...
        with bad_image(path, lambda error: reason_of(error, data)):
            try:
                return self._photo(data, path)
            except (ValueError, SyntaxError, UnidentifiedImageError):
                if not is_png:
                    raise
            # A text or profile may be broken, or too large for Pillow, while the pixels are intact.
            photo = self._photo(png.without_texts(data), path)
            return replace(photo, notes=(*photo.notes, "text or profile left out"))

    def begin(self, data: bytes, *, path: Path) -> Photo | Encoded:
        """The part of decoding that runs in a thread, per file; `finish` does the rest. Here: everything."""
        return self.decode(data, path=path)

    def finish(self, begun: Sequence[Photo | Encoded]) -> list[Photo | BadImage]:
        """Completes the results of `begin`, in their order."""
        return [each if isinstance(each, Photo) else self.decode(each.data, path=each.path) for each in begun]

    def threads(self, available: int) -> int:
        """The best number of threads for `begin`, at most `available`."""
        return available

    def content(self, path: Path) -> bytes:
        """The bytes of a regular file of at most `max_bytes`; BadImage for any other."""
        limit = self.max_bytes
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):  # opening a FIFO would block
                raise BadImage(path, "not a regular file")
            if status.st_size > limit:
                raise BadImage(path, "too large", f"{status.st_size:,} bytes, at most {limit:,}")
            return path.read_bytes()
        except FileNotFoundError as error:
            raise BadImage(path, "missing") from error
        except (OSError, ValueError) as error:
            raise BadImage(path, "cannot be read", _summary(error)) from error

    def from_picture(self, picture: Image.Image, *, path: Path) -> Photo:
        """As `decode`, for a Pillow image in memory, which is not changed."""
        mode = f"mode {picture.mode} cannot be converted to RGB"  # for which Pillow raises ValueError
        with bad_image(path, lambda error: mode if isinstance(error, ValueError) else "damaged"):
            self._check_size(picture.size, picture.size, path)
            return self._laid_out(picture, box=(0, 0, *picture.size))  # a lazy image is decoded here

    def _check_size(self, size: tuple[int, int], decoded: tuple[int, int], path: Path) -> None:
        """Raises BadImage if an image's `size` is too small, or the size at which it is `decoded` too large."""
        if min(size) < self.min_side:
            raise BadImage(path, "too small", f"{size[0]} x {size[1]}, data.min_side is {self.min_side}")
        width, height = decoded
        if width * height > self.max_pixels:
            detail = f"{width} x {height} = {width * height:,} pixels, data.max_pixels is {self.max_pixels:,}"
            raise BadImage(path, "too large", detail)

    def _photo(self, data: bytes, path: Path) -> Photo:
        """Decodes a file's content, at reduced size if the format supports it."""
        with Image.open(io.BytesIO(data), formats=ALLOWED) as image:
            size = image.size
            # Before the limit is checked: a JPEG of 108 megapixels decoded at 1/8 needs the memory of 1.7.
            drafted = image.draft("RGB", (self.size, self.size)) if self.draft else None
            self._check_size(size, image.size, path)
            image.load()
            return self._laid_out(image, box=drafted[1] if drafted else (0, 0, *image.size))

    def _laid_out(self, image: Image.Image, *, box: tuple[float, float, float, float]) -> Photo:
        """Converts, resizes, blends over the background and rotates; in this order for speed."""
        turn, notes = orientation_of(image)  # after loading: Pillow rotates a TIFF itself, and removes its tag
        flat = self._over_background(self._resized(to_rgb(image), box))
        if turn is not None:
            flat = flat.transpose(turn)
        if _has_more_frames(image):
            notes = (*notes, "first frame")
        return Photo(np.ascontiguousarray(np.asarray(flat).transpose(2, 0, 1)), notes)

    def _resized(self, image: Image.Image, box: tuple[float, float, float, float]) -> Image.Image:
        return image.resize(
            (self.size, self.size),
            Image.Resampling.BILINEAR,
            box=BOXES[self.resize](*box[2:]),
            reducing_gap=3.0 if self.draft else None,
        )

    def _over_background(self, image: Image.Image) -> Image.Image:
        if image.mode == "RGB":
            return image
        canvas = Image.new("RGB", image.size, self.background)
        canvas.paste(image, mask=image)
        return canvas


@contextmanager
def bad_image(path: Path, reason: Callable[[Exception], str]) -> Iterator[None]:
    """Converts exceptions in the block, except MemoryError, to BadImage; `reason` returns the short reason."""
    try:
        yield
    except (BadImage, MemoryError):
        raise
    except CannotConvert as error:
        raise BadImage(path, str(error)) from error
    except Exception as error:
        why = reason(error)
        raise BadImage(path, why, _summary(error) or _what_to_do(why)) from error


def central_square(width: float, height: float) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the central square of an image."""
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


BOXES: dict[str, Callable[[float, float], tuple[float, float, float, float]]] = {
    "squash": lambda width, height: (0, 0, width, height),
    "crop": central_square,
}
"""The box of an image that each `resize` uses: left, top, right, bottom."""


def orientation_of(image: Image.Image) -> tuple[Image.Transpose | None, tuple[str, ...]]:
    """The operation that makes the image upright by its EXIF, and a note if the EXIF cannot be read."""
    try:
        exif = image.getexif()
        orientation = exif.get(ExifTags.Base.Orientation, 1)
    except Exception:  # cameras write invalid EXIF in many ways; the image is usable without it
        return None, ("EXIF left out",)
    is_lost = bool(image.info.get("exif")) and not exif  # Pillow reads a JPEG's EXIF on opening and hides errors
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return turn, ("EXIF left out",) if is_lost else ()


def _has_more_frames(image: Image.Image) -> bool:
    if image.format in ("JPEG", "MPO", "BMP"):
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # a later frame is damaged, so there is one
        return True


def reason_of(error: Exception, data: bytes) -> str:
    """The short reason for Pillow's error on `data`."""
    if isinstance(error, Image.DecompressionBombError):
        return "too large"
    form = recognise(data)
    if "truncat" in str(error).lower() or (form == "WEBP" and int.from_bytes(data[4:8], "little") + 8 > len(data)):
        return "truncated"
    if form in ALLOWED:
        return "damaged"
    return f"format {form} not allowed" if form else "not an image"


def _what_to_do(reason: str) -> str:
    """The advice for a format that is not allowed."""
    return "convert it to JPEG or PNG" if reason.startswith("format ") else ""


def _summary(error: Exception) -> str:
    """The message of Pillow or the system on one line; "" if it only says that the format is unknown."""
    if isinstance(error, UnidentifiedImageError):
        return ""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return printable(" ".join(text.split()))[:120]
