"""Gradient explanations: Grad-CAM at any stage, integrated gradients on tokens, attention.

They hold for every composition. Gradients are taken with respect to maps and tokens, never to weights: a frozen stream
has them too, and no `.grad` is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from multistream.explaining.forward import ForwardPass, Maps, forward_pass, pooled_maps
from multistream.interfaces import Stream, Tap
from multistream.network.branch import Branch
from multistream.network.network import MultiStream, Pooled
from multistream.nn.eval_mode import evaluating
from multistream.nn.nested import map_stages
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
        return grad_cam_of(
            network, forward_pass(network, batch, runtime=Runtime(next(iter(batch.values())).device)), score
        )
    with evaluating(network), torch.enable_grad():
        return _total_cams(network, batch, score)


def grad_cam_of(network: MultiStream, forward: ForwardPass, score: Score) -> Maps:
    """Direct Grad-CAM, given the forward pass: the backward pass ends at the pooling, no stream runs."""
    leaves = map_stages(forward.maps, lambda m: m.detach().clone().requires_grad_())
    with evaluating(network), torch.enable_grad():
        return _cams(network, leaves, score)


@dataclass(frozen=True)
class IntegratedGradients:
    """Integrated gradients of a batch: by unit of a token, and by the pixels that the tokens were read from.

    `tokens` {key: (B, T, W)} sum to the score's difference from that of the training mean. `pixels`
    {key: {stage: (B, h, w)}}, or (B, D) for a vector, have the same sums by stage. `gap` (B,) is the part of the
    difference that the pixels do not sum to.
    """

    tokens: dict[str, Tensor]
    pixels: Maps
    gap: Tensor


def integrated_gradients(
    network: MultiStream, forward: ForwardPass, *, score: Score, steps: int = 32, chunk: int = 8
) -> IntegratedGradients:
    """Integrated gradients on the tokens, from those of the training mean (Sundararajan et al. 2017).

    The integral is a Gauss-Legendre sum of `steps` points, `chunk` of them at once. It holds for any tap,
    temporal and fusion.
    """
    points, weights = np.polynomial.legendre.leggauss(steps)
    with evaluating(network):
        with torch.no_grad():
            ends = {key: branch.tokens(forward.pooled[key]) for key, branch in network.branches.items()}
            starts = _tokens_of_means(network, forward)
        slopes = {key: torch.zeros_like(end) for key, end in ends.items()}
        for low in range(0, steps, chunk):
            some = torch.tensor((points[low : low + chunk] + 1) / 2, dtype=torch.float64)
            shares = torch.tensor(weights[low : low + chunk] / 2, dtype=torch.float64)
            for key, gradient in _token_gradients(network, starts, ends, some, score).items():
                slopes[key] += torch.einsum("sbtw,s->btw", gradient, shares.to(gradient))
        with torch.no_grad():
            change = score(fused_of_tokens(network, ends)) - score(fused_of_tokens(network, starts))
        pixels = _at_pixels(network, forward, slopes, points=points, weights=weights)
    given = {key: (ends[key] - starts[key]) * slopes[key] for key in ends}
    total = torch.stack([p.flatten(1).sum(1) for stages in pixels.values() for p in stages.values()]).sum(0)
    return IntegratedGradients(given, pixels, (change - total).abs())


def _tokens_of_means(network: MultiStream, forward: ForwardPass) -> dict[str, Tensor]:
    """The tokens of the training mean, for each row of the batch."""
    starts = {}
    for key, branch in network.branches.items():
        means = {stage: tap.baseline.expand_as(forward.pooled[key][stage]) for stage, tap in branch.taps.items()}
        starts[key] = branch.tokens(means)
    return starts


def _at_pixels(
    network: MultiStream,
    forward: ForwardPass,
    slopes: Mapping[str, Tensor],
    *,
    points: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> Maps:
    """The contributions of pixels and entries to tokens with these slopes {key: (B, T, W)}."""
    pixels: Maps = {}
    for key, branch in network.branches.items():
        for step, (stage, tap) in enumerate(branch.taps.items()):
            pooled, slope_BW = forward.pooled[key][stage].detach(), slopes[key][:, step]
            if tap.linear:
                pixels.setdefault(key, {})[stage] = _through_linear_tap(
                    tap, pooled, forward.maps[key][stage], slope_BW, is_vector=branch.is_vector
                )
            else:
                pixels.setdefault(key, {})[stage] = _through_tap(
                    tap, forward.maps[key][stage].detach().float(), slope_BW, points=points, weights=weights
                )
    return pixels


def _through_linear_tap(tap: Tap, pooled: Tensor, map_B: Tensor, slope_BW: Tensor, *, is_vector: bool) -> Tensor:
    """A token's change from the training mean, by pixel or entry; the mean's part is spread evenly."""
    leaf = pooled.clone().requires_grad_()
    with torch.enable_grad():
        (weights_BP,) = torch.autograd.grad((tap.project(leaf) * slope_BW).sum(), leaf)
    if is_vector:
        return weights_BP * (pooled - tap.baseline)
    with torch.no_grad():
        located = tap.locate(weights_BP.unsqueeze(1), map_B)[:, 0]
        mean = (weights_BP @ tap.baseline) / located[0].numel()
    return located - mean[:, None, None]


def _through_tap(
    tap: Tap, map_BChw: Tensor, slope_BW: Tensor, *, points: NDArray[np.float64], weights: NDArray[np.float64]
) -> Tensor:
    """The same for a tap that is not linear: integrated over the way from an empty map to this one.

    An empty map is all zeros. What its token differs by from that of the training mean has no place in the photo and
    is spread evenly, as for a linear tap.
    """
    integral = torch.zeros_like(map_BChw)
    for point, weight in zip(points.tolist(), weights.tolist(), strict=True):
        leaf = ((point + 1) / 2 * map_BChw).requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad((tap(leaf) * slope_BW).sum(), leaf)
        integral += weight / 2 * slope
    with torch.no_grad():
        empty = tap(torch.zeros_like(map_BChw)) - tap.project(tap.baseline.expand(len(map_BChw), -1))
        constant = (empty * slope_BW).sum(1) / map_BChw[0, 0].numel()
    pixels: Tensor = (integral * map_BChw).sum(1) + constant[:, None, None]
    return pixels


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
    pooled = pooled_maps(network, maps)
    flat = [maps[key][stage] for key in pooled for stage in maps[key]]
    gradients = iter(torch.autograd.grad(score(network.classify(pooled)).sum(), flat, materialize_grads=True))
    cams: Maps = {}
    for key in pooled:
        for stage, m in maps[key].items():
            cams.setdefault(key, {})[stage] = _cam(next(gradients), m.detach())
    return cams


def _cam(gradient: Tensor, leaf: Tensor) -> Tensor:
    """A map (B, C, h, w) weighted with its gradient's means, (B, h, w); a vector (B, D) times its gradient."""
    return gradient * leaf if leaf.ndim == 2 else (gradient.mean((2, 3), keepdim=True) * leaf).sum(1)


def _total_cams(network: MultiStream, batch: Mapping[str, Tensor], score: Score) -> Maps:
    """As `_cams`, with gradients that reach a stage through all deeper ones too, if it has a tap or not.

    They are taken with respect to what a stage returns, and laid out as a map then: where that is tokens, the next
    stage does not read the map.
    """
    states = {key: _states(branch, batch[branch.entry(key, batch)]) for key, branch in network.branches.items()}
    maps = {k: {s: _map(network, k, s, state) for s, state in stages.items()} for k, stages in states.items()}
    pooled = pooled_maps(network, maps)
    tensors = [t for stages in states.values() for state in stages.values() for t in _differentiable(state)]
    total = score(network.classify(pooled)).sum()
    gradients = iter(torch.autograd.grad(total, tensors, materialize_grads=True))
    cams: Maps = {}
    for key, stages in states.items():
        for stage, state in stages.items():
            slopes = pytree.tree_map_only(
                Tensor, lambda leaf: next(gradients) if leaf.requires_grad else torch.zeros_like(leaf), state
            )
            gradient, leaf = _map(network, key, stage, slopes), maps[key][stage].detach()
            cams.setdefault(key, {})[stage] = _cam(gradient, leaf)
    return cams


def _states(branch: Branch, x: Tensor) -> dict[str, Any]:
    """The outputs of all stages, tapped or not; the maps of a stream with its own `forward`."""
    stream = branch.stream
    # A float input that asks for gradients makes every stage record them, whatever of it is frozen.
    x = x.detach().float().requires_grad_()
    if type(stream).forward is not Stream.forward:
        return stream(x)  # type: ignore[no-any-return]
    state: Any = stream.prepare(x)
    states = {}
    for name, stage in stream.stages.items():
        state = states[name] = stage(state)
    return states


def _map(network: MultiStream, key: str, stage: str, state: Any) -> Tensor:
    stream = network.branches[key].stream
    has_own_forward = type(stream).forward is not Stream.forward
    return state if has_own_forward else stream.to_map(state, stage)


def _differentiable(state: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(state) if isinstance(leaf, Tensor) and leaf.requires_grad]
