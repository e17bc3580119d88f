"""Matches the classes of a run with those of a data set by name, never by index; polarities of emotions."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multistream.data.layouts.delimited_text import read_rows, read_text
from multistream.data.layouts.webemo import SEVEN, at_level
from multistream.errors import DataError, UsageError, check_known, did_you_mean

NEGATIVE = frozenset(("anger", "confusion", "disgust", "fear", "negative", "sadness"))
POSITIVE = frozenset(
    # WebEMO has surprise as positive.
    ("amusement", "awe", "contentment", "excitement", "joy", "love", "positive", "surprise")
)

_FI_TO_WEBEMO = {
    "amusement": "joy",
    "contentment": "joy",
    "excitement": "joy",
    "awe": "surprise",
    "anger": "anger",
    "disgust": "anger",
    "fear": "fear",
    "sadness": "sadness",
}
_WEBEMO = [fine for group in SEVEN.values() for fine in group]

SHIPPED: Mapping[str, Mapping[str, str]] = {
    "fi-webemo7": _FI_TO_WEBEMO,
    "fi-webemo7-awe-joy": {**_FI_TO_WEBEMO, "awe": "joy"},
    "fi-polarity": {name: "positive" if name in POSITIVE else "negative" for name in _FI_TO_WEBEMO},
    "webemo25-webemo7": {fine: at_level(fine, "7") for fine in _WEBEMO},
    "webemo25-polarity": {fine: at_level(fine, "2") for fine in _WEBEMO},
    "webemo7-polarity": {coarse: at_level(group[0], "2") for coarse, group in SEVEN.items()},
}
"""Class maps by name (paper section 4). Awe is mapped to surprise or to joy, so that both can be reported."""


def polarities(classes: Iterable[str]) -> tuple[bool, ...] | None:
    """Returns whether each class is a positive emotion; None if the polarity of a class is unknown.

    >>> polarities(["awe", "fear"]), polarities(["awe", "car"])
    ((True, False), None)
    """
    names = [name.strip().lower() for name in classes]
    is_known = set(names) <= POSITIVE | NEGATIVE
    return tuple(name in POSITIVE for name in names) if is_known else None


ClassMap = Mapping[str, str]
"""{class of the run: class of the data}"""

BY_NAME: ClassMap = MappingProxyType({})


@dataclass(frozen=True)
class ClassMatch:
    """The mapping of K classes of a run to T `classes`: the data set's, in its order, then those that only the run has.

    The label indices of the data therefore remain valid, and a prediction of a class that the data lack is wrong.
    """

    classes: tuple[str, ...]
    columns: tuple[int, ...]
    """(K,) index into `classes` for each class of the run."""
    unreachable: tuple[str, ...]
    """Classes of the data that the run cannot predict."""
    lacking: tuple[str, ...]
    """Classes of the run that the data do not have; they are the last of `classes`."""

    def apply(self, probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
        """Sums probabilities (N, K) into (N, T)."""
        summed = np.zeros((len(probabilities), len(self.classes)))
        for k, column in enumerate(self.columns):
            summed[:, column] += probabilities[:, k]
        return summed

    def reachable(self, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Returns which photos (N,) have a label that the run can predict."""
        return np.isin(labels, [i for i, name in enumerate(self.classes) if name not in self.unreachable])


def match_classes(classes: Sequence[str], target_classes: Sequence[str], *, mapping: ClassMap = BY_NAME) -> ClassMatch:
    """Matches a run's classes with those of the data (paper section 4), by `mapping` or else by equal names.

    Raises DataError for a class of the data that no class maps to, unless there is a mapping: then it is `unreachable`.

    >>> match_classes(["joy", "fear"], ["fear", "joy"]).columns
    (1, 0)
    """
    check_known(mapping, classes, where="--class-map", what="{name!r} is not a class of the run.")
    check_known(mapping.values(), target_classes, where="--class-map", what="{name!r} is not a class of the photos.")
    goes_to = [mapping.get(name, name) for name in classes]
    lacking = tuple(dict.fromkeys(name for name in goes_to if name not in target_classes))
    unreachable = tuple(name for name in target_classes if name not in goes_to)
    if unreachable and not mapping:
        names = ", ".join(unreachable)
        right = f"It knows {', '.join(classes)}."
        do = 'Map them: --class-map FILE with a line OURS = "THEIRS" for each class of the run.'
        raise DataError("classes", f"the photos have {names}, but the run does not.", right=right, do=do)
    reached = (*target_classes, *lacking)
    return ClassMatch(reached, tuple(reached.index(name) for name in goes_to), unreachable, lacking)


def read_class_map(source: str | Path) -> ClassMap:
    """Reads a class map {class of the run: class of the data}.

    `source` is the name of a built-in map, or a TOML, JSON or CSV file (two columns, no header).

    >>> read_class_map("fi-webemo7")["disgust"]
    'anger'
    """
    if str(source) in SHIPPED:
        return SHIPPED[str(source)]
    path = Path(source).expanduser()
    suffix = path.suffix.lower()
    if not path.is_file():
        what = f"{str(source)!r} is neither a file nor a built-in class map."
        raise UsageError("--class-map", what, right=did_you_mean(str(source), SHIPPED))
    if suffix not in _READERS:
        raise UsageError(path, "this is not a class map.", right=f"It must end in {', '.join(_READERS)}.")
    try:
        found = _READERS[suffix](path)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise DataError(path, f"this is not valid {suffix[1:].upper()}: {error}.") from error
    if not isinstance(found, dict) or not all(isinstance(theirs, str) for theirs in found.values()):
        right = "It must give each class of the run a class of the photos, by name."
        raise DataError(path, "this is not a class map.", right=right)
    return found


def _from_toml(path: Path) -> Any:
    return tomllib.loads(read_text(path))


def _from_json(path: Path) -> Any:
    return json.loads(read_text(path), object_pairs_hook=lambda pairs: _once(pairs, path))


def _from_csv(path: Path) -> Any:
    pairs = []
    for row in read_rows(path):
        if len(row.cells) != 2:
            right = "Each line must be OURS,THEIRS."
            raise DataError(f"{path}:{row.line}", f"it has {len(row.cells)} cells.", right=right)
        pairs.append((row.cells[0].strip(), row.cells[1].strip()))
    return _once(pairs, path)


def _once(pairs: Sequence[tuple[str, Any]], path: Path) -> dict[str, Any]:
    """Returns the pairs as a dict. Raises DataError if a class is mapped twice."""
    (name, count), *_ = Counter(name for name, _ in pairs).most_common(1) or [("", 0)]
    if count > 1:
        raise DataError(path, f"{name!r} is mapped twice.", do="Keep one of them.")
    return dict(pairs)


_READERS = {".toml": _from_toml, ".json": _from_json, ".csv": _from_csv}
