"""Matching: which of the ids in a file means which image, where both are paths from somewhere."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multistream.data.filenames import path_ends
from multistream.errors import DataError, some_of


@dataclass(frozen=True)
class Matched:
    """For each image the row that is its own, `rows` (N,) int64, -1 for none; `by_suffix` were not found by id."""

    rows: NDArray[np.int64]
    by_suffix: int


def match(ids: Sequence[str], names: Sequence[str], *, where: str) -> Matched:
    """Pairs images and names: equal ones first, then each with the one whose path ends alike for longest.

    Both must be each other's longest, and one must hold the other whole: `joy/1.jpg` and `set/joy/1.jpg`. Where no id
    is equal, a common folder is enough, `images/joy/1.jpg` and `set/joy/1.jpg`; a common file name never is, or a photo
    without a name would take that of one in another folder. Where either side has several of them, a DataError counts
    the images and shows one. Names that occur twice count once.
    """
    row_of: dict[str, int] = {}
    for row, name in enumerate(names):
        row_of.setdefault(name, row)
    wanted = dict.fromkeys(ids)
    others = [image for image in wanted if image not in row_of]
    pairs = _by_suffix(
        others,
        [name for name in row_of if name not in wanted],
        common_folder=len(others) == len(wanted),
        where=where,
    )
    rows = np.array([row_of.get(pairs.get(image, image), -1) for image in ids], dtype=np.int64)
    return Matched(rows, sum(image in pairs for image in ids))


def _by_suffix(images: Sequence[str], names: Sequence[str], *, common_folder: bool, where: str) -> dict[str, str]:
    """{image: name} of those that are each other's longest common suffix, in whole path components.

    One must hold the other whole; with `common_folder` a suffix with a folder in it will do.
    """
    of_images = _by_longest_end(images, {end for name in names for end in path_ends(name)})
    of_names = _by_longest_end(names, {end for image in images for end in path_ends(image)})
    both = [
        (left, of_names[end])
        for end, left in of_images.items()
        if end in of_names
        and ((common_folder and "/" in end) or any(path_ends(path)[0] == end for path in (*left, *of_names[end])))
    ]
    unclear = [(left, right) for left, right in both if len(left) > 1 or len(right) > 1]
    if unclear:
        _refuse(unclear, len(images), where)
    return {left[0]: right[0] for left, right in both}


def _by_longest_end(paths: Iterable[str], ends: set[str]) -> Mapping[str, list[str]]:
    """The paths under the longest of `ends` that each has."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        if (end := next((end for end in path_ends(path) if end in ends), None)) is not None:
            found[end].append(path)
    return found


def _refuse(unclear: Sequence[tuple[list[str], list[str]]], images: int, where: str) -> None:
    count = sum(len(left) for left, _ in unclear)
    left, right = unclear[0]
    what = f"{count:,} of {images:,} images can be joined in several ways, as {_shown(left)} with {_shown(right)}."
    raise DataError(where, what, do="Include enough folders in the ids to make them unique.")


def _shown(names: Sequence[str]) -> str:
    return some_of(map(repr, names))
