"""Photos that callers pass, one or many: paths, folders, URLs, bytes, open files, Pillow images, arrays, tensors."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.Image import Image as Picture

from multistream.data.decoding import BadImage, Decoder, Encoded, Photo
from multistream.data.image_files import list_images
from multistream.data.urls import is_url, photos_at, read_url
from multistream.errors import DataError, MultistreamError, UsageError, printable


class TensorLike(Protocol):
    """A torch.Tensor uint8 (3, H, W), or (B, 3, H, W); a protocol, so that torch is not imported here."""

    @property
    def ndim(self) -> int:
        """The number of axes."""

    def permute(self, *dims: int) -> Any:
        """The tensor with its axes in this order."""


PhotoLike = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Picture | NDArray[np.uint8] | TensorLike
)
"""One photo; a path or URL may also be that of a folder."""

IN_MEMORY = "<image>"
"""The name of a photo without a path."""

_CHANNELS = (3, 4)


@dataclass(frozen=True)
class GivenPhoto:
    """One photo: its `path` for messages, the `ids` under which a file of vectors may list it, and its content.

    The content is a URL if it is a str; if it is a BadImage, that is why the photo cannot be read.
    """

    path: str
    ids: tuple[str, ...]
    content: Path | str | bytes | Picture | BadImage

    @classmethod
    def bad(cls, path: str, reason: str) -> GivenPhoto:
        """A photo that cannot be read, with the reason."""
        return cls(path, (), BadImage(Path(path), reason))

    def begin(self, decoder: Decoder) -> Photo | Encoded:
        """The result of `decoder.begin` for the content, of any kind; BadImage if it cannot be decoded."""
        name = Path(self.path)
        match self.content:
            case BadImage():
                raise self.content
            case Path():
                return decoder.begin(decoder.content(self.content), path=self.content)
            case str():
                return decoder.begin(_of_url(self.content, decoder.max_bytes), path=name)
            case bytes():
                return decoder.begin(self.content, path=name)
            case _:
                return decoder.from_picture(self.content, path=name)

    def aspect(self, *, limit: int) -> float:
        """The upright photo's width divided by its height, from its header; `limit` is the most bytes to read of a URL.

        The photo must have been decoded before.
        """
        match self.content:
            case BadImage():
                raise self.content
            case Picture():
                return _aspect(self.content)
            case Path():
                source: Path | io.BytesIO = self.content
            case str():
                source = io.BytesIO(_of_url(self.content, limit))
            case bytes():
                source = io.BytesIO(self.content)
        with Image.open(source) as picture:
            return _aspect(picture)


def given_photos(
    images: PhotoLike | Iterable[PhotoLike | GivenPhoto],
    *,
    limit: int,
    root: Path | None = None,
    allow_outside: bool = False,
    say: Callable[[str], object] | None = None,
) -> Iterator[GivenPhoto]:
    """Yields the photos lazily; a folder yields its images, sorted, and `say` reports ignored entries.

    `limit` is the most bytes that are read of an open file. A photo below `root`, the folder of the run's own data set,
    gets its path relative to it as an id too. Arrays and buffers are copied, because callers may change them later.
    """
    for image in _many(images):
        match image:
            case GivenPhoto():
                yield image
            case str() if is_url(image):
                yield from _from_url(image)
            case str() | os.PathLike():
                yield from _from_path(Path(image).expanduser(), root, allow_outside, say)
            case _:
                yield GivenPhoto(IN_MEMORY, (), _content(image, limit))


def _aspect(picture: Picture) -> float:
    width, height = picture.size
    turned = picture.getexif().get(ExifTags.Base.Orientation, 1) > 4
    return height / width if turned else width / height


def _many(images: PhotoLike | Iterable[PhotoLike | GivenPhoto]) -> Iterable[PhotoLike | GivenPhoto]:
    """The photos as an iterable; one photo becomes a list of one."""
    match images:
        case _ if _is_tensor(images):
            _check_tensor(images)
            return [images] if images.ndim < 4 else images  # type: ignore[union-attr,list-item,return-value]
        case np.ndarray():
            return [images] if images.ndim < 4 else images
        case str() | os.PathLike() | bytes() | bytearray() | memoryview() | Picture():
            return [images]
        case _ if hasattr(images, "read"):  # an open file is iterable too: its lines are not photos
            return [images]  # type: ignore[list-item]
        case Iterable():
            return images
    right = "It must be a path, bytes, an open file, a Pillow picture, a uint8 array, or several of them."
    raise UsageError("images", f"{type(images).__name__} is not a photo.", right=right)


def _from_path(
    path: Path, root: Path | None, allow_outside: bool, say: Callable[[str], object] | None
) -> Iterator[GivenPhoto]:
    if not path.is_dir():
        yield GivenPhoto(str(path), _ids(path, root), path)
        return
    try:
        listing = list_images(path, allow_outside=allow_outside, strict=False)
    except DataError as error:
        yield GivenPhoto(str(path), (), BadImage(path, "cannot be read", str(error)))
        return
    for note in (*listing.notes, *([] if listing.ids else ["it holds no images"])):
        if say:
            say(f"{printable(str(path))}: {note}")
    for image_id in listing.ids:
        file = path / image_id
        yield GivenPhoto(str(file), (*_ids(file, root), image_id), file)


def _from_url(url: str) -> Iterator[GivenPhoto]:
    try:
        yield from (GivenPhoto(photo, (photo,), photo) for photo in photos_at(url))
    except DataError as error:
        yield GivenPhoto(url, (), BadImage(Path(url), "cannot be read", str(error)))


def _ids(path: Path, root: Path | None) -> tuple[str, ...]:
    """The ids of a photo: its path as written, relative to the run's data set, and absolute.

    `root` has no symbolic links, but the path may go through some: to the data set, or from it to its photos.
    """
    absolute = os.path.abspath(path)
    inside = [os.path.relpath(place, root) for place in (absolute, os.path.realpath(path)) if root]
    return tuple(dict.fromkeys((path.as_posix(), *(id_ for id_ in inside if not id_.startswith("..")), absolute)))


def _content(image: Any, limit: int) -> bytes | Picture | BadImage:
    """A copy of a photo in memory as bytes or a Pillow image; the bytes of its file if they are available."""
    try:
        match image:
            case bytes() | bytearray() | memoryview():
                return bytes(image)
            case Picture():
                return _of_picture(image)
            case np.ndarray():
                return _of_array(image)
            case _ if _is_tensor(image):
                return _of_tensor(image)
            case _ if hasattr(image, "read"):
                return _of_file(image, limit)
    except MemoryError:
        raise
    except Exception as error:  # a user's object may raise anything, which must not affect the next photo
        return _bad("cannot be read", f"{type(error).__name__}: {error}")
    return _bad("not a photo", type(image).__name__)


def _of_picture(picture: Picture) -> bytes | Picture:
    """The bytes of the file that a lazy image was opened from, so that it is decoded like the file; else a copy."""
    file = getattr(picture, "fp", None)
    if getattr(picture, "tile", None) and file is not None and picture.tell() == 0:
        place = file.tell()
        file.seek(0)
        try:
            return bytes(file.read())
        finally:
            file.seek(place)
    return picture.copy()


def _of_array(array: NDArray[Any]) -> Picture | BadImage:
    right = "it must be uint8: (H, W), (H, W, 3) RGB or (H, W, 4) RGBA"
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in _CHANNELS)):
        return _bad("not a photo", f"an array {array.shape} of {array.dtype}; {right}")
    if not array.size:
        return _bad("empty", f"an array {array.shape}")
    return Image.fromarray(np.array(array, order="C"))


def _is_tensor(image: object) -> bool:
    """Whether it is a torch.Tensor; does not import torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(image, torch.Tensor)


_TENSOR = "A tensor must be uint8, channels first: (3, H, W) or (B, 3, H, W), with values from 0 to 255."


def _check_tensor(images: Any) -> None:
    """Raises UsageError for a tensor that is neither a photo nor a batch of photos."""
    if str(images.dtype) != "torch.uint8" or images.ndim not in (3, 4) or images.shape[-3] != 3:
        what = f"a tensor {tuple(images.shape)} of {str(images.dtype).removeprefix('torch.')} is not a photo."
        raise UsageError("images", what, right=_TENSOR)


def _of_tensor(tensor: Any) -> Picture | BadImage:
    try:
        _check_tensor(tensor)
    except UsageError as error:
        return _bad("not a photo", str(error))
    return _of_array(tensor.permute(1, 2, 0).cpu().numpy()) if tensor.ndim == 3 else _bad("not a photo", _TENSOR)


def _of_url(url: str, limit: int) -> bytes:
    """The bytes of the file at a URL; BadImage if it cannot be read or has more than `limit` bytes."""
    try:
        data = read_url(url, limit=limit)
    except FileNotFoundError as error:
        raise BadImage(Path(url), "missing") from error
    except (MultistreamError, MemoryError):
        raise
    except Exception as error:  # each storage has its own exceptions; the next photo may be readable
        raise BadImage(Path(url), "cannot be read", f"{type(error).__name__}: {error}") from error
    if len(data) > limit:
        raise BadImage(Path(url), "too large", f"more than {limit:,} bytes")
    return data


def _of_file(file: Any, limit: int) -> bytes | BadImage:
    data = file.read(limit + 1)
    if not isinstance(data, bytes):
        return _bad("not a photo", "the file was opened as text")
    return data if len(data) <= limit else _bad("too large", f"more than {limit:,} bytes")


def _bad(reason: str, detail: str) -> BadImage:
    return BadImage(Path(IN_MEMORY), reason, detail)
