"""Loading: photos with their vectors and maps, as batches by input name."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooLate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from multistream.data.decode_workers import CORES, PHOTOS, Pool, decoded_in_processes
from multistream.data.decoding import BadImage, Decoder, Encoded, Photo
from multistream.data.given_photos import GivenPhoto
from multistream.data.prefetch import AHEAD, Prefetch, read_groups
from multistream.data.side_inputs import SideInputs
from multistream.data.table import Table
from multistream.errors import DataError, MultistreamWarning, UsageError, printable
from multistream.inputs import Image, Input
from multistream.recipe import DataSettings
from multistream.recipe.sections import OnBadImage

Item = dict[str, NDArray[Any]]
Begun = dict[str, Any]
"""An item whose "image" is still a Photo or Encoded."""

BAD_SHOWN = 5
"""The number of photos that cannot be decoded that are listed by name."""

TIMEOUT = 300.0
"""Seconds after which reading a file counts as failed."""


class Photos(Dataset[Item]):
    """The images of a table as arrays, by index: "image" uint8 (3, S, S), maps (C, S, S), vectors (D,) float32.

    Without a `decoder` no photo is read; `given` photos are read instead of the table's files. Row i of `vectors`
    belongs to image i; `maps` are called with i. A file that cannot be decoded raises BadImage if `on_bad_image` is
    "error"; otherwise `loaded` leaves it out, and with "report" records it in `bad`, {index: reason}.
    """

    def __init__(
        self,
        table: Table,
        decoder: Decoder | None,
        *,
        vectors: Mapping[str, NDArray[np.float32]] | None = None,
        maps: Mapping[str, Callable[[int], NDArray[np.float32]]] | None = None,
        on_bad_image: OnBadImage = "error",
        given: Sequence[GivenPhoto] = (),
    ) -> None:
        self.given = given
        self.table, self.decoder, self.on_bad_image = table, decoder, on_bad_image
        self.vectors, self.maps = dict(vectors or {}), dict(maps or {})
        self.bad: dict[int, str] = {}
        for name, rows in self.vectors.items():
            if len(rows) != len(table):
                raise ValueError(f"vectors {name!r} have {len(rows)} rows for {len(table)} images; row i is image i's.")

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Item:
        [item] = self.finish([self.begin(index)])
        if isinstance(item, BadImage):
            raise item
        return item

    def begin(self, index: int) -> Begun:
        """The part of reading one image that runs in a thread; `finish` completes several."""
        begun: Begun = {} if self.decoder is None else {"image": self._begun(self.decoder, index)}
        return begun | self.beside(index)

    def beside(self, index: int) -> Item:
        """The maps and vectors of an image."""
        maps = {name: read(index) for name, read in self.maps.items()}
        return maps | {name: rows[index] for name, rows in self.vectors.items()}

    def finish(self, begun: Sequence[Begun | BadImage]) -> list[Item | BadImage]:
        """Completes the results of `begin`, in their order."""
        if self.decoder is None:
            return list(begun)
        pictures = [each["image"] for each in begun if not isinstance(each, BadImage)]
        photos = iter(self.decoder.finish(pictures))
        return [each if isinstance(each, BadImage) else _with_picture(each, next(photos)) for each in begun]

    def leave_out(self, index: int, error: BadImage) -> None:
        """Raises the error, records its reason in `bad`, or ignores it, according to `on_bad_image`."""
        if self.on_bad_image == "error":
            raise error
        if self.on_bad_image == "report":
            self.bad[index] = error.reason

    def _begun(self, decoder: Decoder, index: int) -> Photo | Encoded:
        if self.given:
            return self.given[index].begin(decoder)
        path = self.table.path(index)
        return decoder.begin(decoder.content(path), path=path)


def loaded(
    photos: Photos,
    indices: NDArray[np.int64] | Sequence[int],
    *,
    batch_size: int,
    workers: int = 0,
    pin: bool = False,
    timeout: float = TIMEOUT,
    prefetch: Prefetch | None = None,
) -> Iterator[dict[str, Tensor]]:
    """The images with these indices, in this order, `batch_size` at a time: {name: (B, ...)} and "index" (B,) int64.

    Batch number b always holds images of indices[b * batch_size : (b + 1) * batch_size]: B is smaller if some are left
    out, and 0 if all are. `workers` threads read AHEAD batches ahead, or the number that `prefetch` sets; 0 reads in
    the calling thread. Processes read a large number of files instead, if `prefetch` allows it. `pin` allocates batches
    in pinned memory. Raises DataError for a file that takes longer than `timeout` seconds.
    """
    prefetch = prefetch or Prefetch(AHEAD if workers else 0)
    chunks = ([int(i) for i in indices[at : at + batch_size]] for at in range(0, len(indices), batch_size))
    if prefetch.processes and _are_worth_processes(photos, len(indices), workers):
        for chunk, begun in _in_processes(photos, chunks, workers=workers, prefetch=prefetch, timeout=timeout):
            yield _batch(photos, chunk, begun, pin=pin)
        return
    threads = workers if photos.decoder is None else photos.decoder.threads(workers)
    with Pool(threads) as pool:
        for group in read_groups(pool, chunks, photos.begin, prefetch=prefetch):
            outcomes = [_outcome(photos, i, future, timeout) for i, future in group]
            yield _batch(photos, [i for i, _ in group], outcomes, pin=pin)


def _are_worth_processes(photos: Photos, count: int, workers: int) -> bool:
    """Whether processes decode these files faster than threads; only threads read maps and photos in memory."""
    are_files = type(photos.decoder) is Decoder and not photos.given and not photos.maps
    return are_files and workers >= CORES and count >= PHOTOS


def _in_processes(
    photos: Photos, chunks: Iterable[list[int]], *, workers: int, prefetch: Prefetch, timeout: float
) -> Iterator[tuple[list[int], list[Begun | BadImage]]]:
    """Each chunk of indices with its images as `begin` returns them, or the reason why one cannot be read."""
    assert photos.decoder is not None
    asked, answered = itertools.tee(chunks)
    files = ([photos.table.path(i) for i in chunk] for chunk in asked)
    found = decoded_in_processes(photos.decoder, files, workers=workers, ahead=prefetch.groups, timeout=timeout)
    for chunk in answered:
        try:
            decoded = next(found)
        except TooLate as error:
            raise _still_reading(photos, chunk[0], timeout) from error
        begun = [
            photo if isinstance(photo, BadImage) else {"image": photo, **photos.beside(i)}
            for i, photo in zip(chunk, decoded, strict=True)
        ]
        yield chunk, begun


def _batch(
    photos: Photos, indices: Sequence[int], begun: Sequence[Begun | BadImage], *, pin: bool
) -> dict[str, Tensor]:
    rows = []
    for index, item in zip(indices, photos.finish(begun), strict=True):
        if isinstance(item, BadImage):
            photos.leave_out(index, item)
        else:
            rows.append((index, item))
    batch = {name: _stacked([item[name] for _, item in rows], pin=pin) for name in (rows[0][1] if rows else {})}
    return {**batch, "index": torch.tensor([index for index, _ in rows], dtype=torch.int64)}


def _outcome(photos: Photos, index: int, future: Future[Begun], timeout: float) -> Begun | BadImage:
    """The result of `begin` for an image, or the reason why it cannot be read."""
    try:
        return future.result(timeout)
    except BadImage as error:
        return error
    except TooLate as error:
        if future.done():  # the reader itself raised it
            raise
        raise _still_reading(photos, index, timeout) from error


def _still_reading(photos: Photos, index: int, timeout: float) -> DataError:
    do = "Is its disk still mounted? multistream data scan reads every file."
    return DataError(photos.table.path(index), f"it is still being read after {timeout:g} s.", do=do)


def _with_picture(begun: Begun, photo: Photo | BadImage) -> Item | BadImage:
    return photo if isinstance(photo, BadImage) else {**begun, "image": photo.pixels}


def _stacked(arrays: list[NDArray[Any]], *, pin: bool) -> Tensor:
    """Stacks B arrays of one shape to (B, ...), copied once, directly into pinned memory if `pin`."""
    first = torch.from_numpy(arrays[0][None][:0])  # for type and shape only
    stacked = torch.empty((len(arrays), *first.shape[1:]), dtype=first.dtype, pin_memory=pin)
    np.stack(arrays, out=stacked.numpy())
    return stacked


def skipped_lines(table: Table, bad: Mapping[int, str]) -> list[str]:
    """A line for each of the first BAD_SHOWN photos that cannot be decoded, and the total if there are more."""
    lines = [f"{printable(table.ids[i])}: {why}; skipped" for i, why in sorted(bad.items())[:BAD_SHOWN]]
    if len(bad) > BAD_SHOWN:
        lines.append(f"{len(bad):,} photos in total are skipped; multistream data scan lists them")
    return lines


def make_photos(
    table: Table,
    inputs: Mapping[str, Input],
    side_inputs: SideInputs,
    settings: DataSettings,
    *,
    given: Sequence[GivenPhoto] = (),
) -> Photos:
    """The photos of a table with their vectors and maps, for these inputs (by stream key).

    `given` are the photos of the rows if they are not files of the table.
    """
    return Photos(
        table,
        make_decoder(inputs, settings),
        vectors=side_inputs.vectors,
        maps=side_inputs.maps,
        on_bad_image=settings.on_bad_image,
        given=given,
    )


def make_decoder(inputs: Mapping[str, Input], settings: DataSettings) -> Decoder | None:
    """The decoder of all streams, at the largest of their sizes; None if no stream reads photos.

    If the recipe uses nvJPEG and it is not available, warns and returns the Pillow decoder.
    """
    sizes = [each.size for each in inputs.values() if isinstance(each, Image)]
    if not sizes:
        return None
    decoder = Decoder(
        size=max(sizes),
        resize=settings.resize,
        max_pixels=settings.max_pixels,
        min_side=settings.min_side,
        background=settings.background,
        draft=settings.draft,
    )
    if settings.decoder == "pillow":
        return decoder
    if why := no_nvjpeg():
        what = f"data.decoder: nvjpeg is not available ({why}); Pillow is used, and some predictions may differ"
        warnings.warn(what, MultistreamWarning, stacklevel=2)
        return decoder
    from multistream.data.gpu_decoding import on_gpu

    return on_gpu(decoder)


def check_decoder(settings: DataSettings) -> None:
    """Raises UsageError if the decoder of the recipe is not available; for training and extraction."""
    if settings.decoder == "nvjpeg" and (why := no_nvjpeg()):
        raise UsageError("data.decoder", f"nvjpeg is not available: {why}.", do="Use --set data.decoder=pillow.")


def no_nvjpeg() -> str:
    """Why nvJPEG is not available on this machine; "" if it is."""
    try:
        from multistream.data.gpu_decoding import why_not
    except ImportError as error:  # torchvision plans to move decoding to torchcodec
        return str(error)
    return why_not("cuda")
