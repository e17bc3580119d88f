"""Decoding on a GPU: JPEGs by nvJPEG through torchvision, resized on the GPU; all other files by Pillow."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.io import ImageReadMode, decode_jpeg

from multistream.data.decoding import BOXES, BadImage, Decoder, Encoded, Photo, bad_image, orientation_of, reason_of
from multistream.data.file_formats import ALLOWED

PIXELS: Final = 2**27
"""The most pixels that are decoded in one call: 400 MB of RGB."""

HEADER_THREADS: Final = 2
"""One thread reads 13,500 headers/s, four times the GPU's decoding; with 16, extraction was half as fast as with 4."""

END_OF_IMAGE: Final = b"\xff\xd9"


@dataclass(frozen=True)
class GpuDecoder(Decoder):
    """As Decoder, but JPEGs are decoded and resized on `device`, many in one call, and returned as arrays on the CPU.

    nvJPEG decodes complete JPEGs in grey or YCbCr; Pillow decodes all other files, and those that nvJPEG rejects.
    Pixels differ from Pillow's by a third of a grey level on average, so that the cache keys differ too.
    """

    device: str = "cuda"

    @property
    def version(self) -> str:
        """Everything that decoded pixels depend on, as text for cache keys."""
        kind = torch.device(self.device).type
        return f"{super().version} JPEG by torchvision {version('torchvision')} {kind} {torch.version.cuda}"

    def decode(self, data: bytes, *, path: Path) -> Photo:
        """Decodes one file; `begin` and `finish` decode many at once."""
        [photo] = self.finish([self.begin(data, path=path)])
        if isinstance(photo, BadImage):
            raise photo
        return photo

    def begin(self, data: bytes, *, path: Path) -> Photo | Encoded:
        """Reads a JPEG's header; returns the photo if Pillow must decode it."""
        if not data.endswith(END_OF_IMAGE):  # not a JPEG, or a truncated one, which nvJPEG would complete
            return super().decode(data, path=path)
        with (
            bad_image(path, lambda error: reason_of(error, data)),
            Image.open(io.BytesIO(data), formats=ALLOWED) as image,
        ):
            if not _suits(image):
                return super().decode(data, path=path)
            self._check_size(image.size, image.size, path)
            return Encoded(data, path, image.size, *orientation_of(image))

    def threads(self, available: int) -> int:
        """At most HEADER_THREADS: they only read headers, and slow down the thread that launches GPU kernels."""
        return min(available, HEADER_THREADS)

    def finish(self, begun: Sequence[Photo | Encoded]) -> list[Photo | BadImage]:
        """Completes the results of `begin`, in their order."""
        encoded = [each for each in begun if isinstance(each, Encoded)]
        decoded = iter([photo for some in _portions(encoded) for photo in self._decoded(some)])
        return [next(decoded) if isinstance(each, Encoded) else each for each in begun]

    def _decoded(self, files: Sequence[Encoded]) -> list[Photo | BadImage]:
        """Decodes JPEGs in one call; if that fails, each in a separate call, and by Pillow if that fails too."""
        try:
            pixels = self._pixels(files)
        except torch.OutOfMemoryError as error:
            raise MemoryError(str(error).partition("\n")[0]) from error
        except RuntimeError:
            if len(files) > 1:
                return [photo for file in files for photo in self._decoded([file])]
            return [self._by_pillow(files[0])]
        return [Photo(_turned(each, file.turn), file.notes) for each, file in zip(pixels, files, strict=True)]

    def _by_pillow(self, file: Encoded) -> Photo | BadImage:
        try:
            return super().decode(file.data, path=file.path)
        except BadImage as error:
            return error

    def _pixels(self, files: Sequence[Encoded]) -> list[NDArray[np.uint8]]:
        """The pixels of each file, uint8 (3, S, S) RGB, not rotated by EXIF; copied to the CPU together."""
        data = [torch.frombuffer(bytearray(file.data), dtype=torch.uint8) for file in files]
        pictures = decode_jpeg(data, mode=ImageReadMode.RGB, device=self.device)
        small = torch.stack([self._fitted(picture) for picture in pictures])
        return list(small.round_().clamp_(0, 255).to(torch.uint8).cpu().numpy())

    def _fitted(self, picture: Tensor) -> Tensor:
        """Crops an image (3, H, W) and resizes it with antialiasing to (3, S, S) float32."""
        height, width = picture.shape[1:]
        left, top, right, bottom = map(round, BOXES[self.resize](width, height))
        box = picture[:, top:bottom, left:right] if self.resize == "crop" else picture
        return interpolate(box[None].float(), (self.size, self.size), mode="bilinear", antialias=True)[0]


def _portions(files: Sequence[Encoded]) -> Iterator[list[Encoded]]:
    """Groups of files with at most PIXELS pixels together, at least one file each."""
    some: list[Encoded] = []
    for file in files:
        if some and sum(prod(each.size) for each in (*some, file)) > PIXELS:
            yield some
            some = []
        some.append(file)
    if some:
        yield some


def _turned(pixels: NDArray[np.uint8], turn: Image.Transpose | None) -> NDArray[np.uint8]:
    if turn is None:
        return pixels
    picture = Image.fromarray(pixels.transpose(1, 2, 0)).transpose(turn)
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))


def _suits(image: Image.Image) -> bool:
    """Whether nvJPEG decodes a file like Pillow: a JPEG of one frame, in grey or YCbCr."""
    is_stored_as_rgb = image.mode == "RGB" and image.info.get("adobe_transform") == 0
    return image.format == "JPEG" and image.mode in ("RGB", "L") and not is_stored_as_rgb


@cache
def why_not(device: str) -> str:
    """Why JPEGs cannot be decoded on a device; "" if they can."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        return "there is no CUDA device"
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, format="JPEG")
    try:
        GpuDecoder(size=8, device=device)._pixels([Encoded(file.getvalue(), Path("probe"), (16, 16))])
    except RuntimeError as error:
        return str(error).partition("\n")[0]
    return ""


def on_gpu(decoder: Decoder) -> GpuDecoder:
    """The same decoder on this process's current GPU."""
    return GpuDecoder(**vars(decoder), device=f"cuda:{torch.cuda.current_device()}")
