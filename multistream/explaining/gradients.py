"""Gradient explanations: Grad-CAM at any stage, integrated gradients on tokens, attention.

They hold for every composition. Gradients are taken with respect to maps and tokens, never to weights: a frozen stream
has them too, and no `.grad` is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from multistream.explaining.observing import Maps, Observed, observe
from multistream.network.network import MultiStream, Pooled
from multistream.nn.eval_mode import evaluating
from multistream.runtime.device import Runtime

Flow = Literal["direct", "total"]
Score = Callable[[Tensor], Tensor]
"""logits (B, K) -> the number (B,) to explain: a class's logit, a contrast, a fused probability."""


def grad_cam(network: MultiStream, batch: Mapping[str, Tensor], *, score: Score, flow: Flow = "direct") -> Maps:
    """Grad-CAM maps (B, h, w) of every tapped stage, signed, before any ReLU (Selvaraju et al. 2017).

    A channel's weight is the mean of the score's gradient over the map's pixels. `direct` takes the gradient through
    the stage's own tap only, so that maps add up over the stages; `total` also through the deeper stages, as
    Grad-CAM on a network with one output does, and for stages without a tap too. At the last stage both are the same.
    For a vector there is the gradient times each entry, (B, D).
    """
    if flow == "direct":
        return grad_cam_of(network, observe(network, batch, runtime=Runtime(next(iter(batch.values())).device)), score)
    with evaluating(network), torch.enable_grad():
        maps = _connected(network, batch)
        return _cams(network, maps, score)


def grad_cam_of(network: MultiStream, seen: Observed, score: Score) -> Maps:
    """Direct Grad-CAM of a batch that was observed: the backward pass ends at the pooling, nothing of a stream runs."""
    leaves = {k: {s: m.detach().clone().requires_grad_() for s, m in stages.items()} for k, stages in seen.maps.items()}
    with evaluating(network), torch.enable_grad():
        return _cams(network, leaves, score)


@dataclass(frozen=True)
class Integrated:
    """Integrated gradients of a batch: by token unit, and carried on to the places that the tokens were read from.

    `tokens` {key: (B, T, W)} sum to the score's distance from that of the training mean, up to `gap` (B,). `places`
    {key: {stage: (B, h, w)}}, or (B, D) for a vector, have the same sums by stage: behind a linear tap a unit's share
    is an affine function of the map. Stages behind a tap that is not linear have none.
    """

    tokens: dict[str, Tensor]
    places: Maps
    gap: Tensor


def integrated_gradients(
    network: MultiStream, seen: Observed, *, score: Score, steps: int = 32, chunk: int = 8
) -> Integrated:
    """Integrated gradients on the tokens, from those of the training mean (Sundararajan et al. 2017).

    The integral is a Gauss-Legendre sum of `steps` points, `chunk` of them at once.
    """
    points, weights = np.polynomial.legendre.leggauss(steps)
    with evaluating(network):
        with torch.no_grad():
            ends = {key: b.tokens(seen.pooled[key]) for key, b in network.branches.items()}
            means = {
                k: {s: t.baseline.expand_as(seen.pooled[k][s]) for s, t in b.taps.items()}
                for k, b in network.branches.items()
            }
            starts = {key: b.tokens(means[key]) for key, b in network.branches.items()}
        slopes = {key: torch.zeros_like(end) for key, end in ends.items()}
        for low in range(0, steps, chunk):
            some = torch.tensor((points[low : low + chunk] + 1) / 2, dtype=torch.float64)
            shares = torch.tensor(weights[low : low + chunk] / 2, dtype=torch.float64)
            for key, gradient in _token_gradients(network, starts, ends, some, score).items():
                slopes[key] += torch.einsum("sbtw,s->btw", gradient, shares.to(gradient))
        with torch.no_grad():
            change = score(fused_of_tokens(network, ends)) - score(fused_of_tokens(network, starts))
        places = _carried(network, seen, slopes)
    given = {key: (ends[key] - starts[key]) * slopes[key] for key in ends}
    gap = (change - torch.stack([g.sum((1, 2)) for g in given.values()]).sum(0)).abs()
    return Integrated(given, places, gap)


def _carried(network: MultiStream, seen: Observed, slopes: Mapping[str, Tensor]) -> Maps:
    """What each place gave to tokens that count with these slopes {key: (B, T, W)}, against the training mean."""
    places: Maps = {}
    for key, branch in network.branches.items():
        for step, (stage, tap) in enumerate(branch.taps.items()):
            if not tap.linear:
                continue
            pooled = seen.pooled[key][stage].detach().requires_grad_()
            with torch.enable_grad():
                (weights_BP,) = torch.autograd.grad((tap.project(pooled) * slopes[key][:, step]).sum(), pooled)
            if branch.is_vector:
                places.setdefault(key, {})[stage] = weights_BP * (pooled.detach() - tap.baseline)
                continue
            place = tap.locate(weights_BP.unsqueeze(1), seen.maps[key][stage])[:, 0]
            mean = (weights_BP @ tap.baseline) / (place.shape[-2] * place.shape[-1])
            places.setdefault(key, {})[stage] = place - mean[:, None, None]
    return places


@torch.no_grad()
def attention(network: MultiStream, pooled: Pooled) -> dict[str, Tensor]:
    """The attention of each step, {key: (B, T)}, for branches whose temporal weighs its steps."""
    found = {}
    with evaluating(network):
        for key, branch in network.branches.items():
            weights = branch.temporal.attention(branch.tokens(pooled[key])) if branch.temporal else None
            if weights is not None:
                found[key] = weights
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


def _cams(network: MultiStream, maps: Maps, score: Score) -> Maps:
    """Each map weighted with its gradient's means, summed over the channels; a vector times its gradient."""
    pooled = {key: {s: t.pool(maps[key][s]) for s, t in b.taps.items()} for key, b in network.branches.items()}
    flat = [maps[key][stage] for key in pooled for stage in maps[key]]
    gradients = iter(torch.autograd.grad(score(network.classify(pooled)).sum(), flat, materialize_grads=True))
    cams: Maps = {}
    for key in pooled:
        for stage, m in maps[key].items():
            gradient, leaf = next(gradients), m.detach()
            if network.branches[key].is_vector:
                cams.setdefault(key, {})[stage] = gradient * leaf
            else:
                cams.setdefault(key, {})[stage] = (gradient.mean((2, 3), keepdim=True) * leaf).sum(1)
    return cams


def _connected(network: MultiStream, batch: Mapping[str, Tensor]) -> Maps:
    """Maps that hang together, so that gradients reach a stage through all deeper ones too, if it has a tap or not."""
    maps: Maps = {}
    for key, branch in network.branches.items():
        # A float input that asks for gradients makes every stage record them, whatever of it is frozen.
        x = batch[branch.entry(key, batch)].detach().float().requires_grad_()
        maps[key] = branch.stream(x)
    return maps
