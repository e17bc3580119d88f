"""Losses by name (`training.loss`): logits (B, K) and labels -> a scalar; labels are (B,) or, mixed, (B, K) shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from multistream.errors import UsageError, did_you_mean


class CrossEntropy(nn.Module):
    """Cross entropy in float32 with class weights (K,) and label smoothing: logits (B, K), labels (B,) -> scalar."""

    weights: Tensor | None

    def __init__(
        self, *, weights: Tensor | None = None, label_smoothing: float = 0.0, counts: Tensor | None = None
    ) -> None:
        super().__init__()
        del counts
        self.register_buffer("weights", weights, persistent=False)
        self.label_smoothing = label_smoothing

    def forward(self, logits_BK: Tensor, labels_B: Tensor) -> Tensor:
        return functional.cross_entropy(
            logits_BK.float(), labels_B, weight=self.weights, label_smoothing=self.label_smoothing
        )


class Focal(CrossEntropy):
    """Cross entropy times (1 - p)^gamma: images that are right already count less (Lin et al. 2017, equation 5)."""

    def __init__(self, *, gamma: float = 2.0, **given: Any) -> None:
        super().__init__(**given)
        if gamma < 0:
            raise UsageError("options.loss.gamma", f"{gamma} is negative.", right="It must be at least 0.")
        self.gamma = gamma

    def forward(self, logits_BK: Tensor, labels_B: Tensor) -> Tensor:
        logs = logits_BK.float().log_softmax(1)
        shares = labels_B if labels_B.ndim == 2 else functional.one_hot(labels_B, logs.shape[1]).float()
        if self.label_smoothing:
            shares = shares * (1 - self.label_smoothing) + self.label_smoothing / logs.shape[1]
        if self.weights is not None:
            shares = shares * self.weights
        each_B = -(shares * (1 - logs.exp()) ** self.gamma * logs).sum(1)
        total = len(logs) if self.weights is None or labels_B.ndim == 2 else self.weights[labels_B].sum()
        return each_B.sum() / total


class LogitAdjusted(CrossEntropy):
    """Cross entropy of logits + tau * log(prior): rare classes are learnt as if all were equally frequent.

    Menon et al. 2021, equation 10; with tau 1 it is the balanced softmax of Ren et al. 2020. Predictions use the logits
    themselves.
    """

    prior: Tensor

    def __init__(self, *, counts: Tensor, tau: float = 1.0, **given: Any) -> None:
        super().__init__(**given)
        counts = counts.double().clamp_min(1)  # a class without images has no logarithm
        self.register_buffer("prior", (tau * (counts / counts.sum()).log()).float(), persistent=False)

    def forward(self, logits_BK: Tensor, labels_B: Tensor) -> Tensor:
        return super().forward(logits_BK.float() + self.prior, labels_B)


LOSSES: Mapping[str, Callable[..., CrossEntropy]] = {
    "cross_entropy": CrossEntropy,
    "focal": Focal,
    "balanced_softmax": LogitAdjusted,
    "logit_adjusted": LogitAdjusted,
}

OPTIONS: Mapping[str, tuple[str, ...]] = {"focal": ("gamma",), "logit_adjusted": ("tau",)}


def make_loss(
    name: str, options: Mapping[str, Any], *, labels: Tensor, classes: int, balanced: bool, label_smoothing: float
) -> CrossEntropy:
    """The loss of a recipe; `labels` (N,) are the training part's, which class weights and priors are counted from."""
    if name not in LOSSES:
        raise UsageError("training.loss", f"{name!r} is unknown.", right=did_you_mean(name, LOSSES))
    known = OPTIONS.get(name, ())
    for option, value in options.items():
        if option not in known:
            raise UsageError(f"options.loss.{option}", f"{name} has no such option.", right=did_you_mean(option, known))
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UsageError(f"options.loss.{option}", f"{value!r} is no number.", right="It must be a number.")
    weights = class_weights(labels, classes) if balanced else None
    counts = torch.bincount(labels, minlength=classes)
    return LOSSES[name](weights=weights, label_smoothing=label_smoothing, counts=counts, **options)


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """Weights (K,) that make every class count the same: N / (K x n_k); a class without images gets 0."""
    counts = torch.bincount(labels, minlength=classes).float()
    return torch.where(counts > 0, len(labels) / (classes * counts.clamp_min(1)), 0.0)
