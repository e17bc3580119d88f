"""Adjective-noun-pair scores as a stream: no stages, a scaling, and an MLP as its classifier."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from multistream import MultistreamError, Stream, Vector

SCALINGS = ("auto", "none", "log", "zscore")
FLOOR = 1e-6
"""The lowest score for `log`; lower scores count as this."""
SUM = 0.05
"""Tolerance: scores count as probabilities if the sums of photos' scores differ less from an integer."""


class ANP(Stream):
    """Reads the scores of `width` adjective-noun pairs, (B, width); `vocabulary` names them.

    `scaling` is applied to them first: `none`, `log` (scores below 1e-6 count as 1e-6), or `zscore`, which sets pairs
    that are constant in training to 0. `auto` is `log` if the training split's scores are probabilities (not negative,
    with a sum of about 1 for every photo, or 2 for two concatenated softmaxes), else `none`. `fit` chooses, and stores
    its result in buffers, so that a model file is complete. `hidden` are the widths of the MLP that classifies the
    scores (paper section 1: D-1024-512-K).

    >>> ANP(width=3, scaling="log")(torch.ones(1, 3))["vector"]
    tensor([[0., 0., 0.]])
    """

    mean: Tensor
    scale: Tensor
    takes_log: Tensor

    def __init__(
        self,
        *,
        width: int,
        vocabulary: Sequence[str] = (),
        scaling: Literal["auto", "none", "log", "zscore"] = "auto",
        hidden: Sequence[int] = (1024, 512),
    ) -> None:
        if scaling not in SCALINGS:
            raise MultistreamError("anp.scaling", f"{scaling!r} is unknown.", right=f"Known: {', '.join(SCALINGS)}.")
        if isinstance(hidden, str) or not all(isinstance(each, int) and each >= 1 for each in (width, *hidden)):
            right = "Widths must be integers of at least 1, as in hidden=[1024, 512]."
            raise MultistreamError("anp", f"width={width}, hidden={hidden!r}.", right=right)
        super().__init__({}, channels={}, input=Vector("anp", width=width, vocabulary=tuple(vocabulary)))
        self.scaling, self.hidden = scaling, tuple(hidden)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.register_buffer("takes_log", torch.tensor(scaling == "log"))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Scores (B, width) -> {"vector": scaled scores (B, width) float32}."""
        scores = self.prepare(x)
        vectors = torch.where(self.takes_log, scores.clamp_min(FLOOR).log(), scores)
        return {"vector": (vectors - self.mean) * self.scale}

    @torch.no_grad()
    def fit(self, vectors: Tensor) -> str | None:
        """Fits the scaling to the training split's scores (N, width); MultistreamError for `log` of negative scores."""
        if self.scaling == "log" and vectors.min() < 0:
            raise MultistreamError(
                "anp.scaling",
                f"the scaling 'log' cannot take the score {vectors.min().item():.4g}.",
                right="Scores must not be negative.",
                do="Use scaling 'zscore' or 'none'.",
            )
        if self.scaling == "auto":
            softmaxes = _softmaxes(vectors)
            self.takes_log.fill_(softmaxes > 0)
            if softmaxes:
                return (
                    f"every photo's scores sum to about {softmaxes}, as those of a softmax do, so their logarithms are "
                    "used (scaling = none keeps them)"
                )
        if self.scaling == "zscore":
            mean = vectors.double().mean(0)
            deviation = vectors.double().std(0, correction=0)
            varies = deviation > 1e-6 * mean.abs()
            self.mean.copy_(mean)
            self.scale.copy_(torch.where(varies, 1 / deviation.clamp_min(1e-30), 0.0))
        return None

    def make_head(self, width: int, classes: int) -> nn.Module:
        """The MLP D-1024-512-K with ReLU, (B, width) -> logits (B, classes) (paper section 1)."""
        if not self.hidden:
            return nn.Linear(width, classes)
        layers: list[nn.Module] = []
        for wide, narrow in pairwise((width, *self.hidden)):
            layers += [nn.Linear(wide, narrow), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(self.hidden[-1], classes))


def _softmaxes(scores: Tensor) -> int:
    """The number of softmaxes that scores (N, D) may come from: the sum of each photo's scores; 0 if sums differ."""
    if not len(scores) or scores.shape[1] < 2 or scores.min() < 0:
        return 0
    sums = scores.double().sum(1)
    whole = round(float(sums.mean()))
    return whole if (sums.mean() - whole).abs() < SUM and sums.std(correction=0) < SUM else 0
