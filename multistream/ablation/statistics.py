"""Statistics over the scores of all variants: the complementarity of streams, and the Shapley values of taps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import torch

from multistream.ablation.results import LeftOut, PairOfStreams, StreamComplement, TapShapley
from multistream.ablation.scores import AccuracyTally, LabelSetTally, RowScores, Tally
from multistream.ablation.variants import Variant
from multistream.bootstrap import Floats
from multistream.data.splits import Parts
from multistream.data.table import Table
from multistream.explaining.games import shapley
from multistream.statistics import agreement, oracle_any


def new_tally(table: Table, variants: int) -> Tally:
    """Returns an empty tally: of the mean average precision if photos may have several labels, else of the accuracy."""
    if table.label_sets is not None:
        return LabelSetTally(variants, table.label_sets)
    return AccuracyTally(variants, table.labels)


def complement(variants: Sequence[Variant], scores: RowScores) -> StreamComplement:
    """Computes the complementarity of streams from all their subsets.

    A stream counts as correct on a photo if more than half of its training runs are.
    """
    number = {(tuple(v.keep), v.fusion if len(v.keep) > 1 else ""): i for i, v in enumerate(variants)}
    keys = tuple(variants[-1].keep)
    tested = scores.tried > 0
    right = {k: 2 * scores.right[number[(k,), ""]][tested] > scores.tried[tested] for k in keys}
    pairs = []
    for first, second in combinations(keys, 2):
        both = agreement(right[first], right[second])
        pairs.append(PairOfStreams(first, second, both.disagreement, both.double_fault, both.oracle))
    by_streams = {kept: float(scores.score[i]) for kept, i in number.items()}
    return StreamComplement(tuple(pairs), _left_out(keys, by_streams), oracle_any(np.stack(list(right.values()))))


def _left_out(keys: tuple[str, ...], scores: Mapping[tuple[tuple[str, ...], str], float]) -> tuple[LeftOut, ...]:
    """Lists each fusion without each of the streams; `scores` are by streams and fusion."""
    rows = []
    for fusion in dict.fromkeys(fusion for _, fusion in scores if fusion):
        for key in keys:
            rest = tuple(k for k in keys if k != key)
            score = scores[rest, fusion if len(rest) > 1 else ""]
            rows.append(LeftOut(fusion, key, score, score - scores[keys, fusion]))
    return tuple(rows)


def tap_values(
    variants: Sequence[Variant], scores: RowScores, *, splits: Sequence[Parts], seeds: int
) -> tuple[TapShapley, ...]:
    """Computes Shapley values of the taps of each ablated stream: one game per training run, averaged over the runs.

    A stream's values sum to the complete network's score minus the score without the stream (checks A1).
    """
    taps: list[TapShapley] = []
    whole = variants[-1]
    number = {tuple(v.keep.items()): i for i, v in enumerate(variants)}
    for key in dict.fromkeys(v.about for v in variants if v.about):
        stages = whole.keep[key]
        table = torch.zeros(2 ** len(stages), scores.scores.shape[1], dtype=torch.float64)
        table[0] = torch.from_numpy(_nothing(variants, scores, key, splits=splits, seeds=seeds))
        for mask in range(1, len(table)):
            keep = {**whole.keep, key: tuple(stage for bit, stage in enumerate(stages) if mask >> bit & 1)}
            table[mask] = torch.from_numpy(scores.scores[number[tuple(keep.items())]])
        values = shapley(table)
        deviations = values.std(1).tolist() if values.shape[1] > 1 else [None] * len(stages)
        taps += [TapShapley(key, *each) for each in zip(stages, values.mean(1).tolist(), deviations, strict=True)]
    return tuple(taps)


def _nothing(
    variants: Sequence[Variant],
    scores: RowScores,
    key: str,
    *,
    splits: Sequence[Parts],
    seeds: int,
) -> Floats:
    """Returns the scores (R,) without any tap of the stream.

    They are the scores without the stream or, for a single stream, those of a classifier without inputs.
    """
    others = {k: s for k, s in variants[-1].keep.items() if k != key}
    if others:
        number = next(i for i, v in enumerate(variants) if dict(v.keep) == others)
        without: Floats = scores.scores[number]
        return without
    return np.repeat(np.array([scores.constant(split) for split in splits]), seeds)
