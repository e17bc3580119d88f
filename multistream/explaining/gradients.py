"""Gradient explanations: Grad-CAM at any stage, integrated gradients on tokens, attention.

They hold for every composition. Gradients are taken with respect to maps and tokens, never to weights: a frozen stream
has them too, and no `.grad` is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from multistream.modes import evaluating
from multistream.network import MultiStream, Pooled
from multistream.parts.temporals import AttentiveBiGRU

Flow = Literal["direct", "total"]
Score = Callable[[Tensor], Tensor]
"""logits (B, K) -> the number (B,) to explain: a class's logit, a contrast, a fused probability."""

Maps = dict[str, dict[str, Tensor]]
"""{key: {stage: (B, ...)}}"""


def grad_cam(network: MultiStream, batch: Mapping[str, Tensor], *, score: Score, flow: Flow = "direct") -> Maps:
    """Grad-CAM maps (B, h, w) of every stage of every image stream, signed, before any ReLU (Selvaraju et al. 2017).

    A channel's weight is the mean of the score's gradient over the map's pixels. `direct` takes the gradient through
    the stage's own tap only, so that maps add up over the stages; `total` also through the deeper stages, as
    Grad-CAM on a network with one output does. At the last stage both are the same.
    """
    with evaluating(network), torch.enable_grad():
        maps, leaves = (_maps_direct if flow == "direct" else _maps_total)(network, batch)
        pooled = {key: {s: t.pool(maps[key][s]) for s, t in b.taps.items()} for key, b in network.branches.items()}
        value = score(network.classify(pooled)).sum()
        flat = [leaf for key, stages in leaves.items() for leaf in stages.values()]
        gradients = iter(torch.autograd.grad(value, flat, allow_unused=True))
    cams: Maps = {}
    for key, stages in leaves.items():
        for stage, leaf in stages.items():
            gradient = next(gradients)
            weights = (torch.zeros_like(leaf) if gradient is None else gradient).mean((2, 3), keepdim=True)
            cams.setdefault(key, {})[stage] = (weights * leaf.detach()).sum(1)
    return cams


def integrated_gradients(
    network: MultiStream, pooled: Pooled, *, score: Score, steps: int = 32, chunk: int = 8
) -> tuple[Maps, Tensor]:
    """Integrated gradients on the tokens, from those of the training mean (Sundararajan et al. 2017).

    Returns {key: {stage: (B, W)}} and the completeness gap (B,): |score - baseline's score - sum|. The integral is a
    Gauss-Legendre sum of `steps` points.
    """
    points, weights = np.polynomial.legendre.leggauss(steps)
    with evaluating(network):
        with torch.no_grad():
            ends = {key: b.tokens(pooled[key]) for key, b in network.branches.items()}
            means = {
                k: {s: t.baseline.expand_as(pooled[k][s]) for s, t in b.taps.items()}
                for k, b in network.branches.items()
            }
            starts = {key: b.tokens(means[key]) for key, b in network.branches.items()}
        sums = {key: torch.zeros_like(end) for key, end in ends.items()}
        for low in range(0, steps, chunk):
            some = torch.tensor((points[low : low + chunk] + 1) / 2, dtype=next(iter(ends.values())).dtype)
            shares = torch.tensor(weights[low : low + chunk] / 2, dtype=some.dtype)
            for key, gradient in _token_gradients(network, starts, ends, some, score).items():
                sums[key] += torch.einsum("sbtw,s->btw", gradient, shares.to(gradient))
        with torch.no_grad():
            change = score(fused_of_tokens(network, ends)) - score(fused_of_tokens(network, starts))
    given = {key: (ends[key] - starts[key]) * sums[key] for key in ends}
    gap = (change - torch.stack([g.sum((1, 2)) for g in given.values()]).sum(0)).abs()
    taps = {key: list(branch.taps) for key, branch in network.branches.items()}
    return {key: {s: g[:, i] for i, s in enumerate(taps[key])} for key, g in given.items()}, gap


@torch.no_grad()
def attention(network: MultiStream, pooled: Pooled) -> dict[str, Tensor]:
    """The attention of each step (paper eq. 2), mean over units: {key: (B, T)} for branches that have one."""
    found = {}
    with evaluating(network):
        for key, branch in network.branches.items():
            if isinstance(branch.temporal, AttentiveBiGRU):
                states = branch.temporal.states(branch.tokens(pooled[key]))
                found[key] = branch.temporal.attention(states).mean(2)
    return found


def fused_of_tokens(network: MultiStream, tokens: Mapping[str, Tensor]) -> Tensor:
    """Tokens {key: (B, T, W)} -> logits (B, K)."""
    vectors = {
        key: branch.temporal(tokens[key]) if branch.temporal else tokens[key].squeeze(1)
        for key, branch in network.branches.items()
    }
    logits: Tensor = network.fusion(vectors).logits
    return logits


def _token_gradients(
    network: MultiStream, starts: Mapping[str, Tensor], ends: Mapping[str, Tensor], points: Tensor, score: Score
) -> dict[str, Tensor]:
    """The score's gradient with respect to the tokens at some points of the way, {key: (points, B, T, W)}."""
    with torch.enable_grad():
        way = {
            key: (starts[key] + points.to(end).view(-1, 1, 1, 1) * (end - starts[key])).requires_grad_()
            for key, end in ends.items()
        }
        value = score(fused_of_tokens(network, {key: w.flatten(0, 1) for key, w in way.items()})).sum()
        return dict(zip(way, torch.autograd.grad(value, list(way.values())), strict=True))


def _maps_direct(network: MultiStream, batch: Mapping[str, Tensor]) -> tuple[Maps, Maps]:
    """All maps computed without gradients, each a leaf: the backward pass stays above the pooling."""
    maps: Maps = {}
    with torch.no_grad():
        for key, branch in network.branches.items():
            maps[key] = {s: m for s, m in branch.stream(batch[branch.entry(key, batch)]).items() if s in branch.taps}
    for key, branch in network.branches.items():
        if not branch.is_vector:
            maps[key] = {stage: m.detach().clone().requires_grad_() for stage, m in maps[key].items()}
    return maps, {key: stages for key, stages in maps.items() if not network.branches[key].is_vector}


def _maps_total(network: MultiStream, batch: Mapping[str, Tensor]) -> tuple[Maps, Maps]:
    """Maps that hang together, so that gradients reach a stage through all deeper ones too."""
    maps: Maps = {}
    for key, branch in network.branches.items():
        x = batch[branch.entry(key, batch)]
        if not branch.is_vector:
            # A float image that asks for gradients makes every stage record them, whatever of it is frozen.
            x = x.float().requires_grad_()
        maps[key] = {stage: m for stage, m in branch.stream(x).items() if stage in branch.taps}
    return maps, {key: stages for key, stages in maps.items() if not network.branches[key].is_vector}
