"""Adjective-noun-pair scores as a stream: no stages, a scaling, and an MLP as its classifier."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from multistream import MultistreamError, Stream, Vector

SCALINGS = ("none", "log", "zscore")
FLOOR = 1e-6
"""The least score that `log` tells from zero."""


class ANP(Stream):
    """Reads the scores of `width` adjective-noun pairs, (B, width); `vocabulary` names them.

    `scaling` is what is done to them first: nothing, the logarithm (scores below 1e-6 count as 1e-6), or `zscore`,
    which needs `fit` once and gives pairs that never vary the value 0. What it fitted are buffers, so a model file
    is complete. `hidden` are the widths of the MLP that classifies them (paper section 1: D-1024-512-K).

    >>> ANP(width=3, scaling="log")(torch.ones(1, 3))["vector"]
    tensor([[0., 0., 0.]])
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        *,
        width: int,
        vocabulary: Sequence[str] = (),
        scaling: Literal["none", "log", "zscore"] = "none",
        hidden: Sequence[int] = (1024, 512),
    ) -> None:
        if scaling not in SCALINGS:
            raise MultistreamError("anp.scaling", f"{scaling!r} is unknown.", right=f"Known: {', '.join(SCALINGS)}.")
        if width < 1 or min(hidden, default=1) < 1:
            raise MultistreamError("anp", f"width={width}, hidden={list(hidden)}.", right="Widths must be at least 1.")
        super().__init__({}, channels={}, input=Vector("anp", width=width, vocabulary=tuple(vocabulary)))
        self.scaling, self.hidden = scaling, tuple(hidden)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Scores (B, width) -> {"vector": scaled scores (B, width) float32}."""
        vectors = self.prepare(x)
        if self.scaling == "log":
            vectors = vectors.clamp_min(FLOOR).log()
        return {"vector": (vectors - self.mean) * self.scale}

    @torch.no_grad()
    def fit(self, vectors: Tensor) -> None:
        """Learns the scaling from the training part's scores (N, width); negative scores have no logarithm."""
        if self.scaling == "log" and vectors.min() < 0:
            raise MultistreamError(
                "anp.scaling",
                f"'log' met the score {vectors.min().item():.4g}.",
                right="Scores must not be negative.",
                do="Take scaling 'zscore' or 'none'.",
            )
        if self.scaling == "zscore":
            mean = vectors.double().mean(0)
            deviation = vectors.double().std(0, correction=0)
            varies = deviation > 1e-6 * mean.abs()
            self.mean.copy_(mean)
            self.scale.copy_(torch.where(varies, 1 / deviation.clamp_min(1e-30), 0.0))

    def make_head(self, width: int, classes: int) -> nn.Module:
        """The MLP D-1024-512-K with ReLU, (B, width) -> logits (B, classes) (paper section 1)."""
        layers: list[nn.Module] = []
        for wide, narrow in pairwise((width, *self.hidden)):
            layers += [nn.Linear(wide, narrow), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(self.hidden[-1] if self.hidden else width, classes))
