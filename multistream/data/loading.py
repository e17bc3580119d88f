"""Loading: photos, with the vectors and maps that belong to them, as batches keyed by input name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooLate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from multistream.data.decode_pool import Pool
from multistream.data.decoding import BadImage, Decoder
from multistream.data.given_photos import GivenPhoto
from multistream.data.prefetch import AHEAD, Prefetch, read_groups
from multistream.data.side_inputs import SideInputs
from multistream.data.table import Table
from multistream.errors import DataError, printable
from multistream.inputs import Image, Input
from multistream.recipe import DataSettings
from multistream.recipe.sections import OnBadImage

Item = dict[str, NDArray[Any]]

BAD_SHOWN = 5
"""Photos that cannot be decoded and are named one at a time."""

TIMEOUT = 300.0
"""Seconds after which a file that is still being read is taken for one that never will be."""


class Photos(Dataset[Item]):
    """The images of a table as arrays, by index: "image" uint8 (3, S, S), maps (C, S, S), vectors (D,) float32.

    Without a `decoder` no photo is read; `given` photos are read in place of the table's files. `vectors` hold row i
    for image i; `maps` are called with i. A file that is no image raises BadImage if `on_bad_image` is "error"; else
    `loaded` leaves it out, and under "report" remembers it in `bad`, {index: why}.
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
        item: Item = {} if self.decoder is None else {"image": self._pixels(self.decoder, index)}
        item |= {name: read(index) for name, read in self.maps.items()}
        item |= {name: rows[index] for name, rows in self.vectors.items()}
        return item

    def _pixels(self, decoder: Decoder, index: int) -> NDArray[np.uint8]:
        return self.given[index].pixels(decoder) if self.given else decoder.read(self.table.path(index))


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

    Batch number b stands for indices[b * batch_size : (b + 1) * batch_size] whatever can be read of it: B is smaller
    where images are left out, and 0 where none is left. `workers` threads read AHEAD batches ahead, or as many as
    `prefetch` says; 0 reads here. `pin` puts batches where a GPU can fetch them. A file that takes longer than
    `timeout` seconds is a DataError.
    """
    prefetch = prefetch or Prefetch(AHEAD if workers else 0)
    starts = range(0, len(indices), batch_size)
    chunks = ([int(i) for i in indices[start : start + batch_size]] for start in starts)
    with Pool(workers) as pool:
        for group in read_groups(pool, chunks, photos.__getitem__, prefetch=prefetch):
            yield _batch(photos, group, pin=pin, timeout=timeout)


def _batch(photos: Photos, entries: list[tuple[int, Future[Item]]], *, pin: bool, timeout: float) -> dict[str, Tensor]:
    rows = [(i, item) for i, future in entries if (item := _outcome(photos, i, future, timeout)) is not None]
    batch = {name: _stacked([item[name] for _, item in rows], pin=pin) for name in (rows[0][1] if rows else {})}
    return {**batch, "index": torch.tensor([index for index, _ in rows], dtype=torch.int64)}


def _outcome(photos: Photos, index: int, future: Future[Item], timeout: float) -> Item | None:
    """What was read of an image; None for one that is left out."""
    try:
        return future.result(timeout)
    except BadImage as error:
        if photos.on_bad_image == "error":
            raise
        if photos.on_bad_image == "report":
            photos.bad[index] = error.reason
        return None
    except TooLate as error:
        if future.done():  # then the reader itself raised it
            raise
        do = "Is its disk still mounted? multistream data scan reads every file."
        raise DataError(photos.table.path(index), f"it is still being read after {timeout:g} s.", do=do) from error


def _stacked(arrays: list[NDArray[Any]], *, pin: bool) -> Tensor:
    """(B, ...) of B arrays of one shape, copied once, directly into pinned memory if `pin`."""
    first = torch.from_numpy(arrays[0][None][:0])  # its type and shape, none of its numbers
    stacked = torch.empty((len(arrays), *first.shape[1:]), dtype=first.dtype, pin_memory=pin)
    np.stack(arrays, out=stacked.numpy())
    return stacked


def skipped_lines(table: Table, bad: Mapping[int, str]) -> list[str]:
    """A line for each of the first photos that cannot be decoded, and one that counts them all if there are more."""
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
    """The photos of a table with their vectors and maps, as these inputs (by stream key) ask for them.

    `given` are the photos of the rows where they are not files of the table.
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
    """Decodes once for all streams, at the largest size that one asks for; None where no stream reads photos."""
    sizes = [each.size for each in inputs.values() if isinstance(each, Image)]
    if not sizes:
        return None
    return Decoder(
        size=max(sizes),
        resize=settings.resize,
        max_pixels=settings.max_pixels,
        min_side=settings.min_side,
        background=settings.background,
        draft=settings.draft,
    )
