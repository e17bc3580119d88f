"""Scanning: reads and decodes every file of a data set once, to find files that would spoil training or results.

Deleted photos of old data sets are often replaced by placeholder images (paper section 4).
"""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multistream.data.decode_workers import Pool
from multistream.data.decoding import BadImage, Decoder
from multistream.data.table import Table

COPIES = 5
"""This number of files with the same image counts as a placeholder."""
FLAT = 4.0
"""An image whose standard deviation of levels, of 255, is below this counts as one colour."""

_GRID = 16
_ALIKE = 6.0
"""Two images are alike if none of their 16 x 16 cells of grey differs by more than this, as after compression."""


@dataclass(frozen=True)
class Unreadable:
    """A file that cannot be used."""

    id: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Scan:
    """The result of a scan. Groups are tuples of ids.

    `duplicates` have the same bytes; `across_parts` are those of them in several splits, `contradictory` those with
    several labels. `same_picture` are files that look alike, `one_colour` those with almost no content. `remarks`
    counts content that decoding ignored, for example {"first frame": 3}.
    """

    name: str
    images: int
    classes: Mapping[str, int]
    unreadable: tuple[Unreadable, ...]
    duplicates: tuple[tuple[str, ...], ...]
    across_parts: tuple[tuple[str, ...], ...]
    contradictory: tuple[tuple[str, ...], ...]
    same_picture: tuple[tuple[str, ...], ...]
    one_colour: tuple[str, ...]
    remarks: Mapping[str, int]
    notes: tuple[str, ...]

    @property
    def is_clean(self) -> bool:
        """Whether the scan found no file that needs attention."""
        found = (self.unreadable, self.duplicates, self.contradictory, self.same_picture, self.one_colour)
        return not any(found)

    def to_dict(self) -> dict[str, Any]:
        """The scan as JSON data, for `data scan --json`."""
        return asdict(self)


@dataclass(frozen=True)
class _Seen:
    """One file: digest of its bytes, its cells of grey, the largest deviation of a channel, and the decoder's notes."""

    sha256: str
    looks: NDArray[np.float32]
    deviation: float
    notes: tuple[str, ...]


def scan(
    table: Table,
    decoder: Decoder,
    *,
    parts: Mapping[str, Iterable[int]] | None = None,
    workers: int = 2,
    tick: Callable[[int], object] | None = None,
) -> Scan:
    """Reads and decodes every image of a table; `parts` are row numbers by split, if the table has no splits.

    `tick` is called with 1 after each image.
    """
    seen, unreadable = _read_all(table, decoder, workers=workers, tick=tick)
    part_of = _part_of(table, parts or {})
    same_bytes = _same_bytes(seen)
    flat = [i for i, each in seen.items() if each.deviation < FLAT]
    counts = np.bincount(table.labels, minlength=len(table.classes))
    return Scan(
        name=table.name,
        images=len(table),
        classes=dict(zip(table.classes, counts.tolist(), strict=True)),
        unreadable=unreadable,
        duplicates=_named(table, same_bytes),
        across_parts=_named(table, (group for group in same_bytes if len(set(map(part_of.get, group))) > 1)),
        contradictory=_named(table, (group for group in same_bytes if len(np.unique(table.labels[group])) > 1)),
        same_picture=_named(table, _alike({i: seen[i].looks for i in seen.keys() - set(flat)})),
        one_colour=tuple(table.ids[i] for i in flat),
        remarks=dict(sorted(Counter(chain.from_iterable(each.notes for each in seen.values())).items())),
        notes=table.notes,
    )


def _part_of(table: Table, parts: Mapping[str, Iterable[int]]) -> dict[int, str]:
    """The split of each row, from the table or from `parts`."""
    part_of = dict(enumerate(table.parts or ()))
    for name, rows in parts.items():
        part_of |= dict.fromkeys(map(int, rows), name)
    return part_of


def _named(table: Table, groups: Iterable[list[int]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(table.ids[i] for i in group) for group in groups)


def _read_all(
    table: Table, decoder: Decoder, *, workers: int, tick: Callable[[int], object] | None
) -> tuple[dict[int, _Seen], tuple[Unreadable, ...]]:
    seen: dict[int, _Seen] = {}
    unreadable = []
    # Pillow warns about each file with invalid EXIF; here they are counted. The threads end before the filter.
    with warnings.catch_warnings(), Pool(workers) as pool:
        warnings.simplefilter("ignore")
        for start in range(0, len(table), 256):
            rows = range(start, min(start + 256, len(table)))
            for i, future in [(i, pool.submit(_look, decoder, table, i)) for i in rows]:
                try:
                    seen[i] = future.result()
                except BadImage as error:
                    unreadable.append(Unreadable(table.ids[i], error.reason, error.detail))
                if tick:
                    tick(1)
    return seen, tuple(unreadable)


def _look(decoder: Decoder, table: Table, index: int) -> _Seen:
    path = table.path(index)
    content = decoder.content(path)
    photo = decoder.decode(content, path=path)
    grey = photo.pixels.mean(0, dtype=np.float32)
    return _Seen(hashlib.sha256(content).hexdigest(), _looks(grey), float(photo.pixels.std((1, 2)).max()), photo.notes)


def _looks(grey_SS: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean grey level of each cell of an image (S, S)."""
    count = min(_GRID, len(grey_SS))
    bands = np.array_split(grey_SS, count)
    return np.array([cell.mean() for band in bands for cell in np.array_split(band, count, axis=1)], dtype=np.float32)


def _alike(looks: Mapping[int, NDArray[np.float32]]) -> list[list[int]]:
    """Groups of at least COPIES indices of images that look like the first of their group."""
    indices = np.array(sorted(looks, key=lambda index: float(looks[index].mean())), dtype=np.int64)
    if len(indices) < COPIES:
        return []
    cells = np.stack([looks[int(index)] for index in indices])
    means = cells.mean(1)
    is_free = np.ones(len(indices), dtype=bool)
    groups = []
    for place in range(len(indices)):
        # Means differ at most as much as cells, so only the next few images in order of their means can be alike.
        end = int(np.searchsorted(means, means[place] + _ALIKE, "right"))
        near = is_free[place:end] & (np.abs(cells[place:end] - cells[place]).max(1) <= _ALIKE)
        if is_free[place] and near.sum() >= COPIES:
            groups.append(sorted(indices[place:end][near].tolist()))
            is_free[place:end][near] = False
    return sorted(groups, key=len, reverse=True)


def _same_bytes(seen: Mapping[int, _Seen]) -> list[list[int]]:
    """Indices of files with the same bytes, largest group first."""
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for index, each in seen.items():
        groups[each.sha256].append(index)
    return sorted((group for group in groups.values() if len(group) > 1), key=len, reverse=True)
