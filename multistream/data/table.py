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
    """(N, K) fractions of the votes that each class got, where people voted; rows sum to 1."""
    label_sets: NDArray[np.bool_] | None = None
    """(N, K) which classes each image has, where it may have several; `labels` holds one of them."""
    parts: tuple[str, ...] | None = None
    """`train`, `val` or `test` for every image, where the layout itself splits."""
    maps: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Paths of Maps by CSV column, relative to `root`."""
    vectors: Mapping[str, VectorTable] = field(default_factory=dict)
    """Vectors that come with the set, by input name."""
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Further columns of a CSV as text, by name: groups, for one."""
    image_size: int = 0
    """Side of the pictures where all are small and square: no stream need look at more pixels. 0: unknown."""
    notes: tuple[str, ...] = ()
    """Lines worth telling: what was ignored, and how many."""

    def __len__(self) -> int:
        return len(self.ids)

    def fault(self) -> str:
        """What is wrong with the table itself, for its layout's author; empty if nothing is."""
        if len(set(self.ids)) != len(self.ids):
            return f"{len(self.ids) - len(set(self.ids))} ids occur twice"
        if len(set(self.classes)) != len(self.classes):
            return f"its classes {list(self.classes)} are not distinct"
        if self.labels.shape != (len(self.ids),):
            return f"its labels have the shape {self.labels.shape} for {len(self.ids)} ids"
        strange = int(((self.labels < 0) | (self.labels >= len(self.classes))).sum())
        if strange:
            return f"{strange} label{'s are' if strange > 1 else ' is'} not among its {len(self.classes)} classes"
        if self.votes is not None and (wrong_votes := self._fault_of_votes(self.votes)):
            return wrong_votes
        if self.label_sets is not None and (wrong_sets := self._fault_of_sets(self.label_sets)):
            return wrong_sets
        columns = {"parts": self.parts, **{f"maps[{name!r}]": paths for name, paths in self.maps.items()}}
        for name, column in columns.items():
            if column is not None and len(column) != len(self.ids):
                return f"{name} has {len(column)} entries for {len(self.ids)} ids"
        if self.parts is not None and (wrong := set(self.parts) - {"train", "val", "test"}):
            return f"parts holds {sorted(wrong)}; they are train, val and test"
        return ""

    def path(self, index: int) -> Path:
        """Where the image with this index lies."""
        return self.root / self.ids[index]

    def _fault_of_votes(self, votes: NDArray[np.float64]) -> str:
        """What is wrong with the votes; empty if nothing is."""
        wanted = (len(self.ids), len(self.classes))
        if votes.shape != wanted:
            return f"its votes have the shape {votes.shape}; they must be {wanted}"
        if not (np.isfinite(votes).all() and (votes >= 0).all() and np.allclose(votes.sum(1), 1)):
            return "its votes are not distributions: each row must be 0 or more and sum to 1"
        if (votes[np.arange(len(votes)), self.labels] < votes.max(1, initial=0)).any():
            return "a label is not the class with the most votes"
        return ""

    def _fault_of_sets(self, sets: NDArray[np.bool_]) -> str:
        """What is wrong with the label sets; empty if nothing is."""
        wanted = (len(self.ids), len(self.classes))
        if sets.shape != wanted or sets.dtype != np.bool_:
            return f"its label sets are {sets.dtype} of the shape {sets.shape}; they must be bool of {wanted}"
        if self.votes is not None:
            return "it has votes and label sets; an image has one or the other"
        if not sets[np.arange(len(sets)), self.labels].all():
            return "a label is not in its image's set"
        return ""

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> Table:
        """The images with these indices, in this order; vectors stay whole, they are joined by id."""
        chosen = [int(i) for i in indices]
        return replace(
            self,
            ids=tuple(self.ids[i] for i in chosen),
            labels=self.labels[chosen],
            votes=None if self.votes is None else self.votes[chosen],
            label_sets=None if self.label_sets is None else self.label_sets[chosen],
            parts=None if self.parts is None else tuple(self.parts[i] for i in chosen),
            maps={name: tuple(paths[i] for i in chosen) for name, paths in self.maps.items()},
            columns={name: tuple(cells[i] for i in chosen) for name, cells in self.columns.items()},
        )
