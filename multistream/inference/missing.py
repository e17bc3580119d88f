"""Missing streams: policies for photos without a vector or map and for streams left out by name, and their accuracy."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from multistream.errors import UsageError, check_known
from multistream.label_set_metrics import THRESHOLD
from multistream.network.network import MultiStream, Pooled
from multistream.network.present import fill_with_means, fill_with_raw_means, fuse_present
from multistream.nn.nested import CHUNK, map_stages, take_rows
from multistream.recipe import DataSettings
from multistream.records import JsonRecord
from multistream.statistics import wilson

MissingStream = Literal["error", "drop", "mean", "zero"]
"""The policy for a missing stream.

error: the photo is refused; drop: the other streams predict; mean: replaced by the training mean; zero: replaced by
zeros, for vectors only.
"""

ASKED_FOR = ("error", "drop", "mean")
"""The policies that a caller can choose; zero can only be set by a recipe."""


@dataclass(frozen=True)
class MissingPolicy:
    """The policy for missing streams, and the keys of the streams that are left out of every photo."""

    policy: MissingStream = "error"
    without: frozenset[str] = frozenset()
    is_asked_for: bool = False
    """Whether the caller chose the policy, and not the run's recipe."""

    @classmethod
    def settle(
        cls, network: MultiStream, settings: DataSettings, *, missing: str = "", without: Collection[str] = ()
    ) -> MissingPolicy:
        """Returns the requested policy, else the recipe's.

        Raises UsageError for unknown names and if no stream remains.
        """
        _check_without(set(network.branches), without)
        if missing not in ("", *ASKED_FOR):
            raise UsageError("--missing", f"{missing!r} is unknown.", right=f"It must be {', '.join(ASKED_FOR)}.")
        if without and missing == "error":
            do = "Use --missing drop or --missing mean."
            raise UsageError("--without", "--without leaves a stream out, but --missing is error.", do=do)
        own = {"mean": "mean", "zero": "zero"}.get(settings.missing_vectors, "error")
        policy = missing or ("drop" if without else own)
        return cls(policy, frozenset(without), is_asked_for=bool(missing))  # type: ignore[arg-type]  # checked above

    @property
    def fills(self) -> bool:
        """Whether a photo that lacks a vector is predicted."""
        return self.policy != "error"

    @property
    def fills_maps(self) -> bool:
        """Whether a photo that lacks a map is predicted; a map cannot be replaced by zeros."""
        return self.policy in ("drop", "mean")

    def leaving_out(self, network: MultiStream, keys: Collection[str]) -> MissingPolicy:
        """Returns the policy with further streams left out. Raises UsageError if none remains."""
        without = self.without | frozenset(keys)
        if self.policy == "drop" and without >= set(network.branches):
            what = "drop leaves no stream, because no input is given."
            raise UsageError("--missing", what, do="Pass --input KEY=PATH.")
        return replace(self, without=without)

    def logits(self, network: MultiStream, pooled: Pooled, present: Mapping[str, Tensor]) -> Tensor:
        """Returns logits (B, K) of pooled features; `present` is {key: (B,) bool} for streams that some photos lack."""
        if all(bool(mask.all()) for mask in present.values()):
            return network.classify(pooled)
        if self.policy == "drop":
            everywhere = torch.ones_like(next(iter(present.values())))
            present_BS = torch.stack([present.get(key, everywhere) for key in network.branches], dim=1)
            return fuse_present(network, fill_with_means(network, pooled, present), present_BS).logits
        vectors = {k: m for k, m in present.items() if k not in self.without and network.branches[k].reads_vector}
        others = {key: mask for key, mask in present.items() if key not in vectors}
        if self.policy == "mean":
            pooled = fill_with_raw_means(network, pooled, vectors)
        return network.classify(fill_with_means(network, pooled, others))


def _check_without(keys: Collection[str], without: Collection[str]) -> None:
    check_known(without, keys, where="--without", what="no stream {name!r}.")
    if set(without) == set(keys):
        raise UsageError("--without", "all streams are left out.", right="At least one stream must remain.")


def absent_pooled(network: MultiStream, keys: Collection[str], rows: int) -> dict[str, dict[str, Tensor]]:
    """Returns pooled features for streams that do not run: the training mean in every row."""
    taps = {key: dict(network.branches[key].taps.items()) for key in keys}
    return map_stages(taps, lambda tap: tap.baseline.expand(rows, -1))


def noun_of(network: MultiStream, key: str) -> str:
    """Returns the noun for this stream's input in messages."""
    return "vector" if network.branches[key].reads_vector else "map"


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
    probabilities = np.full((count, len(network.classes)), np.nan)
    for rows in torch.nonzero(has_one).squeeze(1).split(CHUNK):
        own = {key: mask[rows] for key, mask in present.items()}
        logits = policy.logits(network, take_rows(features, rows), own)
        probabilities[rows.cpu().numpy()] = network.probabilities(logits).cpu().numpy()
    return probabilities
