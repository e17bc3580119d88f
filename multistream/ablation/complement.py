"""How streams complete each other: what two of them get right, what a fusion loses without one, and the ceiling."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from multistream.ablation.results import Complement, LeftOut, Pair
from multistream.ablation.scores import Scores
from multistream.ablation.variants import Variant
from multistream.statistics import agreement, oracle_any


def complement(variants: Sequence[Variant], scores: Scores) -> Complement:
    """Of all subsets of streams; a stream is right on a photo where more than half of its trainings were."""
    number = {(tuple(v.keep), v.fusion if len(v.keep) > 1 else ""): i for i, v in enumerate(variants)}
    keys = tuple(variants[-1].keep)
    tested = scores.tried > 0
    right = {k: 2 * scores.right[number[(k,), ""]][tested] > scores.tried[tested] for k in keys}
    pairs = []
    for first, second in combinations(keys, 2):
        both = agreement(right[first], right[second])
        pairs.append(Pair(first, second, both.disagreement, both.double_fault, both.oracle))
    left = []
    for fusion in dict.fromkeys(v.fusion for v in variants if len(v.keep) > 1):
        full = scores.accuracy[number[keys, fusion]]
        for key in keys:
            rest = tuple(k for k in keys if k != key)
            own = scores.accuracy[number[rest, fusion if len(rest) > 1 else ""]]
            left.append(LeftOut(fusion, key, float(own), float(own - full)))
    return Complement(tuple(pairs), tuple(left), oracle_any(np.stack([right[key] for key in keys])))
