"""How one row differs from another: on the photos that both tested, with the test that fits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multistream.comparison.run_results import Result
from multistream.runs.predictions_file import Predictions
from multistream.statistics import (
    Agreement,
    Interval,
    agreement,
    mcnemar,
    over_seeds,
    paired_bootstrap,
    paired_t,
    smallest_detectable,
    welch_t,
)

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True)
class Difference:
    """Accuracy of a row less that of the reference; what could not be tested has no p value, and a note says why."""

    value: float
    ci95: Interval | None = None
    test: str = ""
    """mcnemar (exact, on photos), paired t or welch t (over seeds); empty: no test."""
    p_value: float | None = None
    p_holm: float | None = None
    n: int | None = None
    """Photos that both runs tested."""
    agreement: Agreement | None = None
    smallest_detectable: float | None = None
    """The true difference that so many photos would show in 8 of 10 cases, at the disagreement seen."""
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        values = {
            "value": self.value,
            "ci95": list(self.ci95) if self.ci95 else None,
            "test": self.test,
            "p_value": self.p_value,
            "p_holm": self.p_holm,
            "n": self.n,
            "smallest_detectable": self.smallest_detectable,
            "note": self.note,
        }
        if self.agreement:
            values |= {
                "only_first": self.agreement.only_first,
                "only_second": self.agreement.only_second,
                "disagreement": self.agreement.disagreement,
                "double_fault": self.agreement.double_fault,
                "oracle": self.agreement.oracle,
            }
        return values


def difference(reference: Sequence[Result], other: Sequence[Result]) -> Difference:
    """What separates two rows, each of one run or of several that are equal but for seeds."""
    if len(reference) == len(other) == 1:
        return _of_runs(reference[0], other[0])
    plain = _mean(other) - _mean(reference)
    if min(len(reference), len(other)) < 2:
        return Difference(plain, note="one row has a single seed: no test over seeds")
    by_seeds = {result.seeds: result for result in other}
    pairs = [(first, by_seeds[first.seeds]) for first in reference if first.seeds in by_seeds]
    if len(pairs) == len(reference) == len(other) and not any(isinstance(matched(*pair), str) for pair in pairs):
        values = [_of_runs(*pair).value for pair in pairs]
        spread = over_seeds(values)
        return Difference(spread.mean, spread.ci95, "paired t", paired_t(values))
    p_value = welch_t([r.accuracy for r in other], [r.accuracy for r in reference])
    return Difference(plain, None, "welch t", p_value, note="the rows' seeds or photos differ")


def matched(first: Result, second: Result) -> Pairs | str:
    """Rows of both predictions with the photos that both tested, by their bytes; or why they cannot be paired."""
    rows = _shared(first.predictions, second.predictions)
    a, b = first.predictions.labels, second.predictions.labels
    assert a is not None  # read_result refuses runs without labels
    assert b is not None
    if not len(rows[0]):
        return "they tested no photo in common"
    if other := sum(a[i] != b[j] for i, j in zip(*rows, strict=True)):
        return f"they label {other:,} of {len(rows[0]):,} common photos differently"
    return rows


def _shared(first: Predictions, second: Predictions) -> Pairs:
    """Indices of photos with the same sha256; the k-th copy of a photo meets the k-th."""
    places = {key: i for i, key in enumerate(_copies(second.sha256))}
    found = [(i, places[key]) for i, key in enumerate(_copies(first.sha256)) if key in places]
    rows = np.array(found, dtype=np.int64).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]


def _copies(digests: Sequence[str]) -> list[tuple[str, int]]:
    """Each digest with the number of its copies that came before."""
    seen: Counter[str] = Counter()
    numbered = []
    for digest in digests:
        numbered.append((digest, seen[digest]))
        seen[digest] += 1
    return numbered


def _of_runs(first: Result, second: Result) -> Difference:
    """Exact McNemar and a paired bootstrap, on the photos that both runs tested."""
    rows = matched(first, second)
    if isinstance(rows, str):
        return Difference(second.accuracy - first.accuracy, note=f"not paired: {rows}")
    a, b = first.correct[rows[0]], second.correct[rows[1]]
    counts, n = agreement(a, b), len(a)
    left_out = len(first.predictions) + len(second.predictions) - 2 * n
    return Difference(
        value=counts.difference,
        ci95=paired_bootstrap(b.astype(np.float64) - a),
        test="mcnemar",
        p_value=mcnemar(counts.only_first, counts.only_second),
        n=n,
        agreement=counts,
        smallest_detectable=smallest_detectable(n, discordance=counts.disagreement) if counts.disagreement else None,
        note=f"paired on the {n:,} photos that both tested" if left_out else "",
    )


def _mean(group: Sequence[Result]) -> float:
    return float(np.mean([result.accuracy for result in group]))
