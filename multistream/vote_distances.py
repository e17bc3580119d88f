"""Distances between predicted distributions and votes: the six measures of label distribution learning.

Source: Geng 2016 (Label Distribution Learning, IEEE TKDE, table 1); Emotion6 and the LDL sets are reported with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multistream.bootstrap import percentile_interval, resampled_means

Floats = NDArray[np.float64]

VOTE_MEASURES: Mapping[str, str] = {
    "chebyshev": "Chebyshev",
    "clark": "Clark",
    "canberra": "Canberra",
    "kl": "KL divergence",
    "cosine": "cosine",
    "intersection": "intersection",
}
"""The names of the measures. The first four are distances, the last two similarities."""


def vote_distances(probabilities: Floats, votes: Floats) -> dict[str, Floats]:
    """The measures of each image, {name: (N,)}, from predictions and votes (N, K).

    A class with 0 in both counts 0 in Clark and Canberra. KL(votes || prediction) is in nats, and a predicted
    probability of 0 counts as 2.2e-16.
    """
    difference, total = np.abs(probabilities - votes), probabilities + votes
    relative = np.divide(difference, total, out=np.zeros_like(difference), where=total > 0)
    ratio = np.divide(votes, np.maximum(probabilities, np.finfo(np.float64).eps))
    logs = np.log(ratio, out=np.zeros_like(ratio), where=votes > 0)
    lengths = np.linalg.norm(probabilities, axis=1) * np.linalg.norm(votes, axis=1)
    return {
        "chebyshev": difference.max(axis=1),
        "clark": np.sqrt(np.square(relative).sum(axis=1)),
        "canberra": relative.sum(axis=1),
        "kl": (votes * logs).sum(axis=1),
        "cosine": (probabilities * votes).sum(axis=1) / lengths,
        "intersection": np.minimum(probabilities, votes).sum(axis=1),
    }


def vote_metrics(probabilities: Floats, votes: Floats, *, seed: int = 0) -> dict[str, Any]:
    """{measure: its mean, measure_ci95: percentile bootstrap interval over images}; `seed` is that of the bootstrap."""
    values = vote_distances(probabilities, votes)
    resampled = resampled_means(np.stack(list(values.values()), axis=1), seed=seed)
    metrics: dict[str, Any] = {}
    for column, (name, distances) in enumerate(values.items()):
        metrics[name] = float(distances.mean())
        metrics[f"{name}_ci95"] = percentile_interval(resampled[:, column])
    return metrics
