"""Which variant was right on which test photo, over all seeds and splits, and what that shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from multistream.ablation.results import LeftOut, PairOfStreams, StreamComplement, TapShapley
from multistream.ablation.variants import Variant
from multistream.data.splits import Parts
from multistream.explaining.games import shapley
from multistream.statistics import (
    Floats,
    Interval,
    agreement,
    mcnemar,
    oracle_any,
    tested_interval,
)

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class RowScores:
    """How often each variant was right on each photo: `right` (V, N) of `tried` (N,) training runs that tested it.

    `accuracies` (V, R) are those of the single training runs, seeds within splits.
    """

    right: Counts
    tried: Counts
    accuracies: NDArray[np.float64]

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """(V,) over all test predictions pooled."""
        fractions: NDArray[np.float64] = self.right.sum(1) / self.tried.sum()
        return fractions

    def interval(self, v: int) -> Interval:
        """95 %: Wilson's where each photo was tested once, else a bootstrap of photos with all their training runs."""
        tested = self.tried > 0
        return tested_interval(self.right[v, tested], self.tried[tested])

    def p_value(self, v: int, reference: int) -> float:
        """Exact McNemar. A photo has one vote however many training runs tested it: for who was right on it more often.

        Seeds are not new photos: to count each as one would find differences where there are none.
        """
        worse = int((self.right[v] < self.right[reference]).sum())
        return mcnemar(worse, int((self.right[v] > self.right[reference]).sum()))

    def per_class(self, v: int, reference: int, labels: Counts, classes: Sequence[str]) -> dict[str, Any]:
        """{class: {"accuracy", "delta"}}, for classes that are tested."""
        found = {}
        for k, name in enumerate(classes):
            tried = self.tried[labels == k].sum()
            if tried:
                own, other = (self.right[i][labels == k].sum() / tried for i in (v, reference))
                found[name] = {"accuracy": float(own), "delta": float(own - other)}
        return found


class Tally:
    """Collects the training runs' answers."""

    def __init__(self, variants: int, photos: int) -> None:
        self.right = np.zeros((variants, photos), dtype=np.int64)
        self.tried = np.zeros(photos, dtype=np.int64)
        self.accuracies: list[list[float]] = []

    def add(self, rows: NDArray[np.int64], correct_VN: NDArray[np.bool_]) -> None:
        """One seed of one split: who was right on these photos."""
        self.right[:, rows] += correct_VN
        self.tried[rows] += 1
        self.accuracies.append(correct_VN.mean(axis=1).tolist())

    def scores(self) -> RowScores:
        """All of it."""
        return RowScores(self.right, self.tried, np.array(self.accuracies).T)


def complement(variants: Sequence[Variant], scores: RowScores) -> StreamComplement:
    """Of all subsets of streams; a stream is right on a photo where more than half of its training runs were."""
    number = {(tuple(v.keep), v.fusion if len(v.keep) > 1 else ""): i for i, v in enumerate(variants)}
    keys = tuple(variants[-1].keep)
    tested = scores.tried > 0
    right = {k: 2 * scores.right[number[(k,), ""]][tested] > scores.tried[tested] for k in keys}
    pairs = []
    for first, second in combinations(keys, 2):
        both = agreement(right[first], right[second])
        pairs.append(PairOfStreams(first, second, both.disagreement, both.double_fault, both.oracle))
    accuracies = {kept: float(scores.accuracy[i]) for kept, i in number.items()}
    return StreamComplement(tuple(pairs), _left_out(keys, accuracies), oracle_any(np.stack(list(right.values()))))


def _left_out(keys: tuple[str, ...], accuracies: Mapping[tuple[tuple[str, ...], str], float]) -> tuple[LeftOut, ...]:
    """Each fusion of all streams without one of them; `accuracies` are by streams and fusion."""
    found = []
    for fusion in dict.fromkeys(fusion for _, fusion in accuracies if fusion):
        for key in keys:
            rest = tuple(k for k in keys if k != key)
            own = accuracies[rest, fusion if len(rest) > 1 else ""]
            found.append(LeftOut(fusion, key, own, own - accuracies[keys, fusion]))
    return tuple(found)


def tap_values(
    variants: Sequence[Variant], scores: RowScores, *, labels: NDArray[np.int64], splits: Sequence[Parts], seeds: int
) -> tuple[TapShapley, ...]:
    """For every stream whose taps were tried in all subsets: one game per training run, averaged over training runs.

    A stream's values sum to the accuracy of the whole less that without the stream (checks A1).
    """
    found: list[TapShapley] = []
    whole = variants[-1]
    number = {tuple(v.keep.items()): i for i, v in enumerate(variants)}
    for key in dict.fromkeys(v.about for v in variants if v.about):
        stages = whole.keep[key]
        table = torch.zeros(2 ** len(stages), scores.accuracies.shape[1], dtype=torch.float64)
        table[0] = torch.from_numpy(_nothing(variants, scores, key, labels=labels, splits=splits, seeds=seeds))
        for mask in range(1, len(table)):
            keep = {**whole.keep, key: tuple(stage for bit, stage in enumerate(stages) if mask >> bit & 1)}
            table[mask] = torch.from_numpy(scores.accuracies[number[tuple(keep.items())]])
        values = shapley(table)
        deviations = values.std(1).tolist() if values.shape[1] > 1 else [None] * len(stages)
        found += [TapShapley(key, *each) for each in zip(stages, values.mean(1).tolist(), deviations, strict=True)]
    return tuple(found)


def _nothing(
    variants: Sequence[Variant],
    scores: RowScores,
    key: str,
    *,
    labels: NDArray[np.int64],
    splits: Sequence[Parts],
    seeds: int,
) -> Floats:
    """The accuracy of no tap at all, by training: without the stream; alone, the most frequent class's fraction."""
    others = {k: s for k, s in variants[-1].keep.items() if k != key}
    if others:
        number = next(i for i, v in enumerate(variants) if dict(v.keep) == others)
        without: Floats = scores.accuracies[number]
        return without
    guesses = [float((labels[p.test] == np.bincount(labels[p.train]).argmax()).mean()) for p in splits]
    return np.repeat(np.array(guesses), seeds)
