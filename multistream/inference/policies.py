"""Accuracy under each policy for missing streams, on complete photos and on all photos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multistream.inference.missing import MissingPolicy, MissingStream
from multistream.label_set_metrics import THRESHOLD
from multistream.network.network import MultiStream, Pooled
from multistream.nn.nested import take_rows
from multistream.records import JsonRecord
from multistream.statistics import wilson

POLICIES = {"complete": "nothing missing", "drop": "drop", "mean": "mean", "zero": "zero", "error": "as trained"}
"""The printed names of the rows of `policy_accuracies`."""


@dataclass(frozen=True)
class PolicyAccuracy(JsonRecord):
    """Accuracy with its 95 % interval on n photos, under one policy for missing streams."""

    n: int
    accuracy: float
    accuracy_ci95: tuple[float, float]


@torch.no_grad()
def probabilities_by_policy(
    network: MultiStream, features: Pooled, present: Mapping[str, Tensor], policy: MissingPolicy
) -> dict[MissingStream, NDArray[np.float64]]:
    """Returns probabilities (N, K) under `policy`, and if some photos lack a stream also under `drop` and `mean`.

    `present` is {key: (N,) bool} for the streams that some photos lack. Rows without any remaining stream are NaN.
    """
    asked: list[MissingStream] = [policy.policy, *(("drop", "mean") if present else ())]
    return {
        name: _probabilities(network, features, present, replace(policy, policy=name)) for name in dict.fromkeys(asked)
    }


def policy_accuracies(
    by_policy: Mapping[MissingStream, NDArray[np.float64]],
    labels: NDArray[np.int64],
    present: Mapping[str, NDArray[np.bool_]],
    *,
    label_sets: NDArray[np.bool_] | None = None,
) -> dict[str, PolicyAccuracy]:
    """Returns accuracy on complete photos, and on all that each policy predicts; for `label_sets`, exact matches."""
    if not present:
        return {}
    complete = np.all(np.stack(list(present.values())), axis=0)
    right = {"complete": _correct(next(iter(by_policy.values())), labels, label_sets)[complete]}
    for name, probabilities in sorted(by_policy.items()):
        predicted = np.isfinite(probabilities).all(1)
        right[name] = _correct(probabilities, labels, label_sets)[predicted]
    return {name: _accuracy(each) for name, each in right.items() if len(each)}


def _correct(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64], label_sets: NDArray[np.bool_] | None
) -> NDArray[np.bool_]:
    if label_sets is None:
        return np.asarray(probabilities.argmax(1) == labels)
    return np.asarray(((probabilities >= THRESHOLD) == label_sets).all(1))


def _accuracy(right_N: NDArray[np.bool_]) -> PolicyAccuracy:
    n, correct = len(right_N), int(right_N.sum())
    return PolicyAccuracy(n, correct / n, wilson(correct, n))


def _probabilities(
    network: MultiStream, features: Pooled, present: Mapping[str, Tensor], policy: MissingPolicy
) -> NDArray[np.float64]:
    """Returns probabilities (N, K) under one policy; NaN if drop leaves a photo without streams."""
    count = len(next(iter(next(iter(features.values())).values())))
    has_one = torch.ones(count, dtype=torch.bool, device=network.prior.device)
    if policy.policy == "drop" and set(present) == set(network.branches):
        has_one = torch.stack(list(present.values())).any(0)
    rows = torch.nonzero(has_one).squeeze(1)
    pooled = take_rows(features, rows)
    logits = policy.logits(network, pooled, {key: there[rows] for key, there in present.items()})
    probabilities = np.full((count, logits.shape[1]), np.nan)
    probabilities[has_one.cpu().numpy()] = network.probabilities(logits).cpu().numpy()
    return probabilities
