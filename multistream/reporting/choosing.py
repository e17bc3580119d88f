"""Which photos a page shows: drawn by their hashes, half of them wrong, so that nobody picks the pretty ones."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from multistream.runs.predictions_file import Predictions


def choose(predictions: Predictions, *, photos: int) -> list[int]:
    """Rows of up to `photos` photos: as many wrong as right ones where there are, spread over the labels.

    The order is that of the files' sha256, which is as good as chance and the same for everybody.
    """
    if predictions.labels is None:
        raise ValueError("photos without labels are neither right nor wrong.")
    order = sorted(range(len(predictions)), key=lambda i: (predictions.sha256[i], predictions.paths[i]))
    right = [i for i in order if predictions.correct[i]]
    wrong = [i for i in order if not predictions.correct[i]]
    few = min(len(wrong), max(photos // 2, photos - len(right)))
    chosen = _spread(wrong, predictions.labels)[:few] + _spread(right, predictions.labels)[: photos - few]
    place = {name: k for k, name in enumerate(predictions.classes)}
    labels = predictions.labels
    return sorted(chosen, key=lambda i: (place.get(labels[i], len(place)), not predictions.correct[i], order.index(i)))


def _spread(rows: Iterable[int], labels: Sequence[str]) -> list[int]:
    """The rows again, one of each label in turn."""
    piles: dict[str, deque[int]] = defaultdict(deque)
    for row in rows:
        piles[labels[row]].append(row)
    dealt = []
    while piles:
        for label in sorted(piles):
            dealt.append(piles[label].popleft())
        piles = defaultdict(deque, {label: pile for label, pile in piles.items() if pile})
    return dealt


def shown_classes(probabilities_K: NDArray[np.float64], label: int, *, most: int) -> list[int]:
    """The classes of one photo that a page can explain: all, or its label and the most probable others."""
    ranked = np.argsort(-probabilities_K, kind="stable").tolist()
    return sorted([label, *[k for k in ranked if k != label]][:most])
