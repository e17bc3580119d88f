"""Losses by name (`training.loss`): logits (B, K) and targets -> a scalar; targets are (B,) or distributions (B, K)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from multistream.interfaces import Loss


class CrossEntropy(Loss):
    """Cross entropy with class weights (K,) and label smoothing."""

    def forward(self, logits_BK: Tensor, targets: Tensor) -> Tensor:
        weights, smoothing = self.weights, self.label_smoothing
        return functional.cross_entropy(logits_BK.float(), targets, weight=weights, label_smoothing=smoothing)


class Focal(Loss):
    """Cross entropy times (1 - p)^gamma: well-classified images count less (Lin et al. 2017, equation 5)."""

    def __init__(self, *, gamma: float = 2.0, weights: Tensor | None = None, label_smoothing: float = 0.0) -> None:
        super().__init__(weights=weights, label_smoothing=label_smoothing)
        self.gamma = _number("gamma", gamma)

    def forward(self, logits_BK: Tensor, targets: Tensor) -> Tensor:
        logs = logits_BK.float().log_softmax(1)
        shares = targets if targets.ndim == 2 else functional.one_hot(targets, logs.shape[1]).float()
        if self.label_smoothing:
            shares = shares * (1 - self.label_smoothing) + self.label_smoothing / logs.shape[1]
        if self.weights is not None:
            shares = shares * self.weights
        each_B = -(shares * (1 - logs.exp()) ** self.gamma * logs).sum(1)
        total = len(logs) if self.weights is None or targets.ndim == 2 else self.weights[targets].sum()
        return each_B.sum() / total


class LogitAdjusted(CrossEntropy):
    """Cross entropy of logits + tau * log(prior): trains as if all classes were equally frequent.

    Menon et al. 2021, equation 10. The prior comes from the class counts of the training split, `counts` (K,).
    Predictions use the unadjusted logits.
    """

    prior: Tensor

    def __init__(
        self, *, counts: Tensor, tau: float = 1.0, weights: Tensor | None = None, label_smoothing: float = 0.0
    ) -> None:
        super().__init__(weights=weights, label_smoothing=label_smoothing)
        counts = counts.double().clamp_min(1)  # avoids log(0) for a class without images
        adjustment = _number("tau", tau, lowest=float("-inf")) * (counts / counts.sum()).log()
        self.register_buffer("prior", adjustment.float(), persistent=False)

    def forward(self, logits_BK: Tensor, targets: Tensor) -> Tensor:
        return super().forward(logits_BK.float() + self.prior, targets)


class BalancedSoftmax(LogitAdjusted):
    """Cross entropy of a softmax whose terms are weighted by the class counts (Ren et al. 2020, equation 4)."""

    def __init__(self, *, counts: Tensor, weights: Tensor | None = None, label_smoothing: float = 0.0) -> None:
        super().__init__(counts=counts, weights=weights, label_smoothing=label_smoothing)


class Distribution(Loss):
    """(1 - winner) KL(target || prediction) + winner * cross entropy of the class with the most votes.

    With `winner` = 0 its gradient is that of cross entropy, and it is 0 if every prediction equals its target. The sum
    of both terms is from Yang et al. 2017 (IJCAI, equation 4), who learn distribution and class together.
    """

    def __init__(self, *, winner: float = 0.0) -> None:
        super().__init__()
        self.winner = _number("winner", winner, highest=1)

    def forward(self, logits_BK: Tensor, targets: Tensor) -> Tensor:
        logs = logits_BK.float().log_softmax(1)
        shares = targets.float() if targets.ndim == 2 else functional.one_hot(targets, logs.shape[1]).float()
        divergence = functional.kl_div(logs, shares, reduction="batchmean")
        if not self.winner:
            return divergence
        best = shares.argmax(1)
        return (1 - self.winner) * divergence + self.winner * functional.nll_loss(logs, best)


class BinaryCrossEntropy(Loss):
    """The logistic loss of each class, averaged over images and classes: for images that may have several classes."""

    label_sets = True

    def __init__(self) -> None:
        super().__init__()

    def forward(self, logits_BK: Tensor, targets: Tensor) -> Tensor:
        wanted = targets.float() if targets.ndim == 2 else functional.one_hot(targets, logits_BK.shape[1]).float()
        return functional.binary_cross_entropy_with_logits(logits_BK.float(), wanted)


def _number(name: str, value: float, *, lowest: float = 0, highest: float = float("inf")) -> float:
    """The option as a number; raises ValueError, with the allowed range, if it is not one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is {value!r}, not a number")
    if not lowest <= value <= highest:
        allowed = f"at least {lowest}" if highest == float("inf") else f"{lowest} to {highest}"
        raise ValueError(f"{name} is {value}; it must be {allowed}")
    return float(value)
