"""Scores by name, as DeepSentiBank writes them: JSON, sorted by score again for each image (paper section 5)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multistream.data.table import VectorTable
from multistream.errors import DataError, printable

_SHOWN = 3
CONCEPTS = "bi-concepts"


@dataclass(frozen=True)
class Scores:
    """The scores (D,) of one image with their names, in the file's order."""

    names: tuple[str, ...]
    values: NDArray[np.float64]


def from_scores(path: Path) -> VectorTable:
    """{image: {name: score}}, also below "images" and with the scores below "bi-concepts", or as [name, score] pairs.

    The vocabulary is the names in alphabetical order. Every image must have the same ones, each once: in sorted
    scores only the name identifies each score.
    """
    where = printable(str(path))
    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=_object)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(where, f"it cannot be read: {error}.") from error
    found = _images(content, where)
    vocabulary = tuple(sorted(next(iter(found.values())).names))
    _check(found, vocabulary, where)
    column = {name: place for place, name in enumerate(vocabulary)}
    features = np.empty((len(found), len(vocabulary)))
    for row, scores in enumerate(found.values()):
        features[row, [column[name] for name in scores.names]] = scores.values
    return VectorTable(tuple(found), features.astype(np.float32), vocabulary)


def _object(pairs: list[tuple[str, Any]]) -> Any:
    """JSON objects of numbers become Scores at once: 2,089 Python numbers an image would be a gigabyte."""
    if pairs and all(isinstance(value, int | float) for _, value in pairs):
        return Scores(tuple(name for name, _ in pairs), np.array([value for _, value in pairs], dtype=np.float64))
    repeated = [name for name, times in Counter(name for name, _ in pairs).items() if times > 1]
    if repeated:
        raise ValueError(f"{repeated[0]!r} occurs twice")
    return dict(pairs)


def _images(content: Any, where: str) -> dict[str, Scores]:
    """The scores by image id, wherever this file keeps them."""
    right = 'It must be {"image.jpg": {"sunny day": 0.1, ...}, ...}.'
    if isinstance(content, Mapping) and isinstance(content.get("images"), Mapping):
        content = content["images"]
    if isinstance(content, Scores):
        raise DataError(where, "it holds scores, but no images.", right=right)
    if not isinstance(content, Mapping) or not content:
        raise DataError(where, "it holds no images with scores.", right=right)
    found = {image: _scores(entry) for image, entry in content.items()}
    without = [image for image, scores in found.items() if scores is None]
    if without:
        what = f"{len(without):,} of {len(found):,} images have no scores by name, {without[0]!r} first."
        raise DataError(where, what, right=right)
    return {image: scores for image, scores in found.items() if scores is not None}


def _scores(entry: Any) -> Scores | None:
    if isinstance(entry, Mapping):
        entry = entry.get(CONCEPTS)
    if isinstance(entry, list) and entry and all(_is_pair(pair) for pair in entry):
        return Scores(tuple(name for name, _ in entry), np.array([score for _, score in entry], dtype=np.float64))
    return entry if isinstance(entry, Scores) else None


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) and isinstance(pair[1], int | float)


def _check(found: Mapping[str, Scores], vocabulary: tuple[str, ...], where: str) -> None:
    """Refuses names that occur twice, and images with other names than the first."""
    if len(set(vocabulary)) < len(vocabulary):
        name = next(name for name, times in Counter(vocabulary).items() if times > 1)
        what = f"{name!r} occurs twice among the scores of an image."
        raise DataError(where, what, right="Each score needs a name of its own.")
    known = set(vocabulary)
    unlike = [image for image, scores in found.items() if set(scores.names) != known or len(scores.names) != len(known)]
    if unlike:
        shown = ", ".join(printable(image) for image in unlike[:_SHOWN])
        what = f"{len(unlike):,} of {len(found):,} images have other score names than the first one ({shown})."
        right = f"All must have the same {len(known):,} names."
        raise DataError(where, what, right=right, do="Write all scores, not only the highest.")
