"""Aligning: the numbers of a vector brought to the order of names that a network was trained with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from multistream.data.table import VectorTable
from multistream.errors import DataError, some_of


def align(
    vectors: VectorTable, vocabulary: Sequence[str] = (), *, width: int = 0, where: str = "vectors"
) -> VectorTable:
    """The vectors with their D numbers in the order of `vocabulary`, by name; DataError where names are missing.

    Names that are not asked for are left out. Of a name that occurs twice, the first goes with the first. Where
    either side has no names the numbers stay as they are, and there must be `width` of them (0: any number).

    >>> import numpy as np
    >>> table = VectorTable(("a.jpg",), np.float32([[1, 2]]), ("old car", "sunny day"))
    >>> align(table, ("sunny day", "old car")).features.tolist()
    [[2.0, 1.0]]
    """
    expected, given = tuple(vocabulary), vectors.vocabulary
    if expected and given and expected != given:
        _check_names(expected, given, where)
        place = {name: column for column, name in enumerate(_numbered(given))}
        columns = [place[name] for name in _numbered(expected)]
        vectors = replace(vectors, features=vectors.features[:, columns], vocabulary=expected)
    width = width or len(expected)
    if width and vectors.features.shape[1] != width:
        what = f"the vectors have {vectors.features.shape[1]:,} numbers per image."
        raise DataError(where, what, right=f"The stream reads {width:,}.", do="Pass vectors with its vocabulary.")
    return vectors


def _check_names(expected: Sequence[str], given: Sequence[str], where: str) -> None:
    """Refuses a vocabulary that lacks names, or repeats one more or less often, which is ambiguous."""
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
    """Each name with how often it stood there before."""
    seen: Counter[str] = Counter()
    for name in names:
        yield name, seen[name]
        seen[name] += 1
