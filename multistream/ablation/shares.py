"""Shares: the exact Shapley value of every tap, in the game whose value is the accuracy after training again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from multistream.ablation.results import Share
from multistream.ablation.scores import Scores
from multistream.ablation.variants import Variant
from multistream.data.splits import Parts
from multistream.explaining.games import shapley
from multistream.statistics import Floats


def shares(
    variants: Sequence[Variant], scores: Scores, *, labels: NDArray[np.int64], splits: Sequence[Parts], seeds: int
) -> tuple[Share, ...]:
    """For every stream whose taps were tried in all subsets: one game a training, averaged over trainings.

    A stream's shares sum to the accuracy of the whole less that without the stream (checks A1).
    """
    found: list[Share] = []
    whole = variants[-1]
    number = {tuple(v.keep.items()): i for i, v in enumerate(variants)}
    for key in dict.fromkeys(v.about for v in variants if v.about):
        stages = whole.keep[key]
        table = torch.zeros(2 ** len(stages), scores.accuracies.shape[1], dtype=torch.float64)
        table[0] = torch.from_numpy(_nothing(variants, scores, key, labels=labels, splits=splits, seeds=seeds))
        for mask in range(1, len(table)):
            subset = tuple(stage for bit, stage in enumerate(stages) if mask >> bit & 1)
            keep = {k: subset if k == key else s for k, s in whole.keep.items()}
            table[mask] = torch.from_numpy(scores.accuracies[number[tuple(keep.items())]])
        values = shapley(table)
        deviations = values.std(1).tolist() if values.shape[1] > 1 else [None] * len(stages)
        found += [Share(key, *each) for each in zip(stages, values.mean(1).tolist(), deviations, strict=True)]
    return tuple(found)


def _nothing(
    variants: Sequence[Variant],
    scores: Scores,
    key: str,
    *,
    labels: NDArray[np.int64],
    splits: Sequence[Parts],
    seeds: int,
) -> Floats:
    """The accuracy of no tap at all, by training: without the stream; alone, the most frequent class's share."""
    others = {k: s for k, s in variants[-1].keep.items() if k != key}
    if others:
        number = next(i for i, v in enumerate(variants) if dict(v.keep) == others)
        without: Floats = scores.accuracies[number]
        return without
    guesses = [float((labels[p.test] == np.bincount(labels[p.train]).argmax()).mean()) for p in splits]
    return np.repeat(np.array(guesses), seeds)
