"""A data set after its layout has been read: ids, labels, classes and side inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class VectorTable:
    """Vectors by image id: `features` (N, D) float32, `vocabulary` names the D entries (empty when unknown)."""

    ids: tuple[str, ...]
    features: NDArray[np.float32]
    vocabulary: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A data set: N images with their labels. An image's id is its path relative to `root`."""

    name: str
    root: Path
    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    """(N,) index into `classes`."""
    classes: tuple[str, ...]
    votes: NDArray[np.float64] | None = None
    """(N, K) fractions of votes for each class, if people voted; rows sum to 1."""
    label_sets: NDArray[np.bool_] | None = None
    """(N, K) whether each image has each class, if it may have several; `labels` holds one of them."""
    parts: tuple[str, ...] | None = None
    """`train`, `val` or `test` for every image, if the layout has predefined splits."""
    maps: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Paths of Maps by CSV column, relative to `root`."""
    vectors: Mapping[str, VectorTable] = field(default_factory=dict)
    """Vectors that are part of the data set, by input name."""
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Other columns of a CSV as text, by name, for example for groups."""
    image_size: int = 0
    """Side in pixels if all images are small and square: streams need not read them larger. 0: unknown."""
    notes: tuple[str, ...] = ()
    """Lines to print: what was ignored, with counts."""

    def __len__(self) -> int:
        return len(self.ids)

    def fault(self) -> str:
        """The first error in the table, for the author of its layout; "" if there is none."""
        size, kinds = len(self.ids), len(self.classes)
        strange = int(((self.labels < 0) | (self.labels >= kinds)).sum())
        found = _first_fault(
            (len(set(self.ids)) < size, f"{size - len(set(self.ids))} ids occur twice"),
            (len(set(self.classes)) < kinds, f"its classes {list(self.classes)} are not distinct"),
            (self.labels.shape != (size,), f"its labels have the shape {self.labels.shape} for {size} ids"),
            (strange > 0, f"{strange} label{'s are' if strange > 1 else ' is'} not among its {kinds} classes"),
        )
        return found or self._fault_of_votes() or self._fault_of_sets() or self._fault_of_columns()

    def path(self, index: int) -> Path:
        """The path of the image with this index."""
        return self.root / self.ids[index]

    def _fault_of_votes(self) -> str:
        if self.votes is None:
            return ""
        votes, wanted = self.votes, (len(self.ids), len(self.classes))
        if votes.shape != wanted:
            return f"its votes have the shape {votes.shape}; they must be {wanted}"
        is_distribution = (votes >= 0).all() and np.allclose(votes.sum(1), 1)  # a NaN is neither
        is_lower = votes[np.arange(len(votes)), self.labels] < votes.max(1, initial=0)
        return _first_fault(
            (not is_distribution, "its votes are not distributions: each row must be 0 or more and sum to 1"),
            (is_lower.any(), "a label is not the class with the most votes"),
        )

    def _fault_of_sets(self) -> str:
        if self.label_sets is None:
            return ""
        sets, wanted = self.label_sets, (len(self.ids), len(self.classes))
        if sets.shape != wanted or sets.dtype != np.bool_:
            return f"its label sets are {sets.dtype} of the shape {sets.shape}; they must be bool of {wanted}"
        return _first_fault(
            (self.votes is not None, "it has votes and label sets; an image has one or the other"),
            (not sets[np.arange(len(sets)), self.labels].all(), "a label is not in its image's set"),
        )

    def _fault_of_columns(self) -> str:
        size = len(self.ids)
        columns = {} if self.parts is None else {"parts": self.parts}
        columns |= {f"maps[{name!r}]": paths for name, paths in self.maps.items()}
        lengths = [(len(c) != size, f"{name} has {len(c)} entries for {size} ids") for name, c in columns.items()]
        wrong = sorted(set(columns.get("parts", ())) - {"train", "val", "test"})
        return _first_fault(*lengths, (bool(wrong), f"parts holds {wrong}; they are train, val and test"))

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> Table:
        """A table of the images with these indices, in this order; keeps all vectors, because they are joined by id."""
        chosen = np.asarray(indices, dtype=np.int64)
        return replace(
            self,
            ids=_rows(self.ids, chosen),
            labels=self.labels[chosen],
            votes=None if self.votes is None else self.votes[chosen],
            label_sets=None if self.label_sets is None else self.label_sets[chosen],
            parts=None if self.parts is None else _rows(self.parts, chosen),
            maps={name: _rows(paths, chosen) for name, paths in self.maps.items()},
            columns={name: _rows(cells, chosen) for name, cells in self.columns.items()},
        )


def _rows(column: Sequence[str], indices: NDArray[np.int64]) -> tuple[str, ...]:
    return tuple(column[i] for i in indices.tolist())


def _first_fault(*checks: tuple[bool | np.bool_, str]) -> str:
    """The message of the first check that failed; "" if none did."""
    return next((message for is_wrong, message in checks if is_wrong), "")
