"""Joins vectors with images: reorders their numbers to a network's vocabulary, and finds each image's vector by id."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, compress

import numpy as np
from numpy.typing import NDArray

from multistream.data.filenames import path_ends
from multistream.data.table import VectorTable
from multistream.errors import DataError, some_of
from multistream.recipe import MissingVectors


def align(
    vectors: VectorTable, vocabulary: Sequence[str] = (), *, width: int = 0, where: str = "vectors"
) -> VectorTable:
    """The vectors with their D numbers in the order of `vocabulary`, by name; DataError if names are missing.

    Names that are not in `vocabulary` are left out. Repeated names are matched in their order. If either side has no
    names, the numbers are unchanged, and there must be `width` of them (0: any number).

    >>> import numpy as np
    >>> table = VectorTable(("a.jpg",), np.float32([[1, 2]]), ("old car", "sunny day"))
    >>> align(table, ("sunny day", "old car")).features.tolist()
    [[2.0, 1.0]]
    """
    expected, given = tuple(vocabulary), vectors.vocabulary
    if expected and given and expected != given:
        _check_names(expected, given, where)
        place = {name: column for column, name in enumerate(_numbered(given))}
        columns = [*map(place.__getitem__, _numbered(expected))]
        vectors = replace(vectors, features=vectors.features[:, columns], vocabulary=expected)
    width = width or len(expected)
    if width and vectors.features.shape[1] != width:
        what = f"the vectors have {vectors.features.shape[1]:,} numbers per image."
        raise DataError(where, what, right=f"The stream reads {width:,}.", do="Pass vectors with its vocabulary.")
    return vectors


def _check_names(expected: Sequence[str], given: Sequence[str], where: str) -> None:
    """Raises DataError if names are missing, or if one does not occur equally often in both, which is ambiguous."""
    wanted, had = Counter(expected), Counter(given)
    if lacking := [name for name in wanted if name not in had]:
        what = f"{len(lacking):,} of the {len(wanted):,} names that the stream reads are missing: "
        right = f"The file has {len(given):,} names, such as {given[0]!r}."
        do = "Pass vectors with the vocabulary used in training."
        raise DataError(where, f"{what}{some_of(map(repr, lacking))}.", right=right, do=do)
    if unlike := [name for name in wanted if wanted[name] != had[name]]:
        name = unlike[0]
        what = f"{name!r} is {had[name]} of the file's names, but {wanted[name]} of the expected names"
        right = "Each name must occur equally often in both."
        raise DataError(where, f"{what} ({len(unlike):,} such names).", right=right)


def _numbered(names: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Each name with the number of its earlier occurrences."""
    seen: Counter[str] = Counter()
    for name in names:
        yield name, seen[name]
        seen[name] += 1


_DONE = {"mean": "given the mean of the training split", "zero": "given zeros", "skip": "left out"}


def match(ids: Sequence[str], names: Sequence[str], *, where: str) -> tuple[NDArray[np.int64], int]:
    """Pairs images and names: first those that are equal, then those with the longest common suffix of paths.

    A pair must be the longest match for both, and one path must be a suffix of the other: `joy/1.jpg` and
    `set/joy/1.jpg`. If no id is equal, a common folder is enough, `images/joy/1.jpg` and `set/joy/1.jpg`; a common file
    name never is, because a photo without a vector would get that of a photo in another folder. If there are several
    matches on a side, raises a DataError that counts the images and shows one. Names that occur twice count once.

    Returns the row of each image, (N,) and -1 for none, and how many were not found by id.
    """
    row_of = first_rows(names)
    wanted = dict.fromkeys(ids)
    others = [image for image in wanted if image not in row_of]
    pairs = _by_suffix(
        others,
        [name for name in row_of if name not in wanted],
        common_folder=len(others) == len(wanted),
        where=where,
    )
    rows = np.array([row_of.get(pairs.get(image, image), -1) for image in ids], dtype=np.int64)
    return rows, sum(image in pairs for image in ids)


def first_rows(names: Sequence[str]) -> dict[str, int]:
    """The first row of each name."""
    row_of: dict[str, int] = {}
    for row, name in enumerate(names):
        row_of.setdefault(name, row)
    return row_of


def _by_suffix(images: Sequence[str], names: Sequence[str], *, common_folder: bool, where: str) -> dict[str, str]:
    """{image: name} for pairs whose longest common suffix, in whole path components, is the same for both.

    One must be a suffix of the other; with `common_folder` a common suffix that includes a folder is enough.
    """
    if not images or not names:
        return {}
    of_images = _by_longest_end(images, {*chain.from_iterable(map(path_ends, names))})
    of_names = _by_longest_end(names, {*chain.from_iterable(map(path_ends, images))})
    both = [
        (of_images[end], of_names[end])
        for end in of_images.keys() & of_names.keys()
        if (common_folder and "/" in end) or _is_whole(end, [*of_images[end], *of_names[end]])
    ]
    _refuse_unclear(both, len(images), where)
    return {left[0]: right[0] for left, right in both}


def _is_whole(end: str, paths: Sequence[str]) -> bool:
    """Whether the suffix is all of one of these paths."""
    return end in {path_ends(path)[0] for path in paths}


def _refuse_unclear(pairs: Sequence[tuple[list[str], list[str]]], images: int, where: str) -> None:
    """Raises DataError if several images, or several names, share a suffix."""
    unclear = [(left, right) for left, right in pairs if len(left) * len(right) > 1]
    if unclear:
        count = sum(len(left) for left, _ in unclear)
        left, right = (some_of(map(repr, paths)) for paths in min(unclear))
        what = f"{count:,} of {images:,} images can be joined in several ways, as {left} with {right}."
        raise DataError(where, what, do="Include enough folders in the ids to make them unique.")


def _by_longest_end(paths: Iterable[str], ends: set[str]) -> Mapping[str, list[str]]:
    """The paths by the longest of `ends` that is a suffix of each."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        if longest := next((end for end in path_ends(path) if end in ends), ""):
            found[longest].append(path)
    return found


@dataclass(frozen=True)
class Joined:
    """Vectors in the order of the images: `rows` (N, D) float32; `present` (N,) is False for images without one.

    Rows of absent vectors are zeros. `notes` report how many were joined, and which were missing.
    """

    rows: NDArray[np.float32]
    present: NDArray[np.bool_]
    notes: tuple[str, ...]


def join(
    ids: Sequence[str], vectors: VectorTable, *, missing: MissingVectors = "error", where: str = "vectors"
) -> Joined:
    """The vectors of the images `ids`, by id, or by the longest path suffix that is unique on both sides.

    An image has no vector if no id matches, or if its numbers are not all finite. `missing` is the policy for these:
    "error" raises a DataError with counts and names, and so does any policy if no image has a vector. Also raises
    DataError if a match is ambiguous, or if an id has two different vectors.

    >>> table = VectorTable(("set/joy/1.jpg", "set/joy/2.jpg"), np.float32([[1], [2]]))
    >>> join(["joy/2.jpg"], table).rows.tolist()
    [[2.0]]
    """
    repeated = repeated_ids(vectors, where)
    own, by_suffix = match(ids, vectors.ids, where=where)
    found = own >= 0
    finite = np.asarray(np.isfinite(vectors.features).all(axis=1))
    present = found & finite[own]
    faults = (
        _counted(list(compress(ids, ~found)), "without a vector"),
        _counted(list(compress(ids, found & ~present)), "with NaN or Inf in their vector"),
    )
    message = list(filter(None, faults))
    if message and (missing == "error" or not present.any()):
        what = f"of {len(ids):,} images there are {' and '.join(message)}."
        right = f"The {len(vectors.ids):,} ids of the file are paths such as {vectors.ids[0]!r}."
        others = "Set data.missing_vectors to skip, mean or zero to continue with the others."
        raise DataError(where, what, right=right, do=others if present.any() else "Check both.")
    if np.array_equal(own, np.arange(len(vectors.ids))) and present.all():
        rows = vectors.features  # of a million photos a copy takes gigabytes
    else:
        rows = np.zeros((len(ids), vectors.features.shape[1]), np.float32)
        rows[present] = vectors.features[own[present]]
    how = f", {by_suffix:,} of them by path suffix" if by_suffix else ""
    summary = f"vectors found for {present.sum():,} of {len(ids):,} images{how}"
    return Joined(rows, present, (summary, *repeated, *(f"{fault}: {_DONE[missing]}" for fault in message)))


def _counted(names: Sequence[str], what: str) -> str:
    """The number of images, what is wrong with them, and the first ones; "" for none."""
    return f"{len(names):,} images {what} ({some_of(map(repr, names))})" if names else ""


def repeated_ids(vectors: VectorTable, where: str) -> tuple[str, ...]:
    """A note on ids that are repeated with the same vector; DataError if the vectors differ."""
    first = first_rows(vectors.ids)
    again = [(name, row) for row, name in enumerate(vectors.ids) if first[name] != row]
    features = vectors.features
    unlike = [name for name, row in again if not np.array_equal(features[first[name]], features[row], equal_nan=True)]
    if unlike:
        what = f"{len(unlike):,} ids occur twice with different numbers, {unlike[0]!r} first."
        raise DataError(where, what, do="Keep one vector per image.")
    return (f"{len(again):,} ids occur twice with the same vector",) if again else ()
