"""Scores by name in DeepSentiBank's JSON, in which each image's scores are sorted by value (paper section 5)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multistream.data.table import VectorTable
from multistream.errors import DataError, readable, some_of

CONCEPTS = "bi-concepts"


@dataclass(frozen=True)
class Scores:
    """The scores (D,) of one image with their names, sorted by name."""

    names: tuple[str, ...]
    values: NDArray[np.float64]

    @classmethod
    def of(cls, pairs: Sequence[tuple[str, Any]]) -> Scores:
        """The scores in (name, score) pairs."""
        names, values = zip(*sorted(pairs, key=itemgetter(0)), strict=True)
        return cls(names, np.array(values, dtype=np.float64))


NONE = Scores((), np.empty(0))


def from_scores(path: Path) -> VectorTable:
    """Reads {image: {name: score}}; images may be in "images", scores in "bi-concepts" or as [name, score] pairs.

    The vocabulary is the names in alphabetical order. Every image must have the same names, each once, because only the
    name identifies a score.
    """
    with readable(path, OSError, ValueError, RecursionError):
        content = json.loads(path.read_bytes(), object_pairs_hook=_object)
    found = _images(content, path)
    vocabulary = next(iter(found.values())).names
    _check(found, vocabulary, path)
    features = np.stack([scores.values for scores in found.values()])
    return VectorTable(tuple(found), features.astype(np.float32), vocabulary)


def _object(pairs: list[tuple[str, Any]]) -> Any:
    """Converts JSON objects of numbers to Scores while parsing: 2,089 Python numbers per image would take 1 GB."""
    if pairs and all(isinstance(value, int | float) for _, value in pairs):
        return Scores.of(pairs)
    if repeated := _repeated(name for name, _ in pairs):
        raise ValueError(f"{repeated[0]!r} occurs twice")
    return dict(pairs)


def _images(content: Any, path: Path) -> dict[str, Scores]:
    """The scores by image id, for each supported structure of the file."""
    right = 'It must be {"image.jpg": {"sunny day": 0.1, ...}, ...}.'
    match content:
        case {"images": Mapping() as images}:
            content = images
    if not isinstance(content, Mapping) or not content:
        raise DataError(path, "it holds no images with scores.", right=right)
    found = {image: _scores(entry) for image, entry in content.items()}
    if lacking := [image for image, scores in found.items() if not scores.names]:
        what = f"{len(lacking):,} of {len(found):,} images have no scores by name, {lacking[0]!r} first."
        raise DataError(path, what, right=right)
    return found


def _scores(entry: Any) -> Scores:
    """The scores of one image; NONE if it has none."""
    held = entry.get(CONCEPTS) if isinstance(entry, Mapping) else entry
    match held:
        case Scores():
            return held
        case [_, *_] if all(map(_is_pair, held)):
            return Scores.of(held)
    return NONE


def _is_pair(pair: Any) -> bool:
    match pair:
        case [str(), int() | float()]:
            return True
    return False


def _check(found: Mapping[str, Scores], vocabulary: tuple[str, ...], path: Path) -> None:
    """Raises DataError for names that occur twice, and for images with other names than the first."""
    if repeated := _repeated(vocabulary):
        what = f"{repeated[0]!r} occurs twice among the scores of an image."
        raise DataError(path, what, right="Each score needs a name of its own.")
    unlike = [image for image, scores in found.items() if scores.names != vocabulary]
    if unlike:
        what = f"{len(unlike):,} of {len(found):,} images have other score names than the first one"
        right = f"All must have the same {len(vocabulary):,} names."
        raise DataError(path, f"{what} ({some_of(unlike)}).", right=right, do="Write all scores, not only the highest.")


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, times in Counter(names).items() if times > 1]
