"""Interfaces of plugin parts: Stream, Tap, Temporal, Fusion and Loss.

Letters in names and docstrings: B images, C channels, h and w a map's sides, P pooled width, W token width,
T taps of one branch (its "time" steps, shallow to deep), E a branch's width, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from multistream.inputs import Image, Input, Map, Vector
from multistream.nn.global_average import global_average
from multistream.nn.modules import Modules
from multistream.nn.row_means import mean_of_rows
from multistream.stream import VECTOR, Stream

__all__ = ["VECTOR", "Fusion", "FusionOutput", "Image", "Input", "Loss", "Map", "Stream", "Tap", "Temporal", "Vector"]


class Tap(nn.Module):
    """Turns a feature map into a token: pools first, then projects (paper section 1; checks E1: the two commute).

    `pool` has no parameters and reduces in float32. Before the projection, the buffers `mean` and `scale` standardise
    the pooled features if the stream is frozen; otherwise they are the identity. `baseline` is the training mean of the
    pooled features, which replaces the features of a masked tap.
    """

    linear: ClassVar[bool] = False
    """Whether a token is an affine function of the map; only then it is an exact sum over the map's pixels."""
    cacheable: ClassVar[bool] = True
    """Whether a token depends on the map through `pool` alone."""
    last_only: ClassVar[bool] = False
    """Whether only the last stage is tapped."""
    reads: ClassVar[str] = ""
    """The only tapped stage, for a tap that reads a summary of the whole photo: `cls` or `embed`; "" for the maps."""

    mean: Tensor
    scale: Tensor
    baseline: Tensor

    def __init__(self, pooled_width: int, *, width: int) -> None:
        super().__init__()
        self.pooled_width, self.width = pooled_width, width
        self.register_buffer("mean", torch.zeros(pooled_width))
        self.register_buffer("scale", torch.ones(pooled_width))
        self.register_buffer("baseline", torch.zeros(pooled_width))

    def pool(self, map_BChw: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, P) float32: the global average."""
        return global_average(map_BChw)

    @property
    def affine_layer(self) -> nn.Module | None:
        """The trainable layer, if `project` is `layer(standardise(pooled))`; nn.Identity if it has none, else None.

        A tap with this layer can train in one batch with other rows of an ablation, and `training.solver = "lbfgs"`
        can fit it.
        """
        return nn.Identity() if type(self).project is Tap.project else None

    def locate(self, weights: Tensor, map_BChw: Tensor) -> Tensor:
        """Distributes `weights . pool(map)` over the map's pixels: weights (K, P) or (B, K, P) -> (B, K, h, w).

        The pixels of a linear tap sum to `weights . pool(map)`. If `pool` is not the global average, this computes one
        gradient per row of `weights`; a tap with a faster method overrides it.
        """
        pixels = map_BChw.shape[2] * map_BChw.shape[3]
        if type(self).pool is Tap.pool:
            equation = "kc,bchw->bkhw" if weights.ndim == 2 else "bkc,bchw->bkhw"
            return torch.einsum(equation, weights / pixels, map_BChw.float())
        rows_BKP = weights.expand(len(map_BChw), -1, -1)
        with torch.enable_grad():
            leaf = map_BChw.detach().float().requires_grad_()
            sums_KB = (rows_BKP * self.pool(leaf).unsqueeze(1)).sum(2).T
            slopes = [torch.autograd.grad(sums_B.sum(), leaf, retain_graph=True)[0] for sums_B in sums_KB]
        constant_BK = rows_BKP @ self.pool(torch.zeros_like(leaf[:1])).detach()[0]
        return (
            torch.stack([(slope * leaf.detach()).sum(1) for slope in slopes], 1) + constant_BK[..., None, None] / pixels
        )

    def project(self, pooled_BP: Tensor) -> Tensor:
        """(B, P) -> the token (B, width)."""
        return self.standardise(pooled_BP)

    def standardise(self, pooled_BP: Tensor) -> Tensor:
        """(B, P) -> (B, P): subtracts `mean`, multiplies by `scale`."""
        return ((pooled_BP - self.mean) * self.scale).to(self.mean.dtype)

    def forward(self, map_BChw: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, width)."""
        return self.project(self.pool(map_BChw))

    @torch.no_grad()
    def fit(self, pooled_NP: Tensor, *, standardise: bool) -> None:
        """Sets `baseline`, and with `standardise` also `mean` and `scale`, from the training features (N, P)."""
        mean = mean_of_rows(pooled_NP)
        self.baseline.copy_(mean)
        if standardise:
            deviation = mean_of_rows(pooled_NP, lambda rows: (rows - mean).square()).sqrt()
            alive = deviation > 1e-6 * (mean.abs() + 1e-6)
            self.mean.copy_(mean)
            self.scale.copy_(torch.where(alive, 1 / deviation.clamp_min(1e-30), 0.0))


class Temporal(nn.Module):
    """Reads a branch's tokens in order of depth, (B, T, W) -> (B, out_width); "time" is the stage (paper section 1)."""

    linear: bool = False
    """Whether the result is a linear function of the tokens."""

    def __init__(self, width: int, *, steps: int, out_width: int) -> None:
        super().__init__()
        self.width, self.steps, self.out_width = width, steps, out_width

    def attention(self, tokens_BTW: Tensor) -> Tensor | None:
        """The weight of each step, (B, T), if the temporal module weights its steps; otherwise None."""
        del tokens_BTW
        return None


@dataclass(frozen=True)
class FusionOutput:
    """The output of a fusion: `logits` (B, K), and each stream's own logits (B, K) if the fusion computes them."""

    logits: Tensor
    streams: Mapping[str, Tensor]


class Fusion(nn.Module):
    """Computes one prediction from the vectors of all branches: {key: (B, E)} -> FusionOutput.

    softmax(logits) are always the probabilities. `heads` holds one classifier per stream, made by `Stream.make_head`;
    a fusion that does not need them drops them. `present` names the streams to use, or is None for all.
    """

    heads: Modules[nn.Module]
    linear: bool = False
    """Whether the logits are an affine function of the vectors."""
    averages_probabilities: bool = False
    """Whether the fused probabilities are the mean of the streams' own probabilities."""
    one_class: bool = False
    """Whether the logits are logarithms of probabilities that sum to 1; an image then cannot have several classes."""

    def __init__(self, widths: Mapping[str, int], *, classes: int, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.widths, self.classes = dict(widths), classes
        self.heads = Modules(heads)

    def stream_logits(self, key: str, vector_BE: Tensor) -> Tensor:
        """The logits (B, K) of one stream's own classifier, as in `FusionOutput.streams[key]`."""
        logits: Tensor = self.heads[key](vector_BE)
        return logits

    def is_linear_stream(self, key: str) -> bool:
        """Whether a stream's own logits are an affine function of its vector."""
        return isinstance(self.heads[key], nn.Linear)

    def set_classifier(self, weights: Mapping[str, Tensor], bias_K: Tensor) -> None:
        """Sets the linear classifier over these streams' vectors: weights {key: (K, E)}, bias (K,).

        A linear fusion gets all streams at once; a fusion that averages probabilities gets one stream per call. Called
        by `training.solver = "lbfgs"`, without gradients.
        """
        del weights, bias_K
        raise TypeError(f"{type(self).__name__} is not linear, or does not define set_classifier(weights, bias)")

    def loss(self, output: FusionOutput, labels: Tensor, criterion: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The training loss, a scalar: by default the criterion on the fused logits."""
        return criterion(output.logits, labels)

    def forward(self, vectors: Mapping[str, Tensor], present: frozenset[str] | None = None) -> FusionOutput:
        """{key: (B, E)} -> logits (B, K)."""
        del vectors, present
        raise TypeError(f"{type(self).__name__} must define forward(vectors, present=None)")


class Loss(nn.Module):
    """What training minimises: logits (B, K) and targets -> the mean over the images, a scalar.

    Targets are class indices (B,) or, with mixup or vote labels, distributions (B, K). `weights` (K,) are the class
    weights, or None if all classes count equally. If the constructor of a loss has no `weights` or `label_smoothing`
    argument, it is built without it, and a user who sets that option gets an error.
    """

    weights: Tensor | None
    label_sets: bool = False
    """Whether targets may be label sets, (B, K) of 0 and 1, with an independent probability per logit."""

    def __init__(self, *, weights: Tensor | None = None, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("weights", weights, persistent=False)
        self.label_smoothing = label_smoothing

    def forward(self, logits_BK: Tensor, targets: Tensor) -> Tensor:
        """(B, K) and (B,) or (B, K) -> scalar, in float32."""
        del logits_BK, targets
        raise TypeError(f"{type(self).__name__} must define forward(logits, targets)")
