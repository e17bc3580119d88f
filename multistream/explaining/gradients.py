"""Gradient explanations: Grad-CAM at any stage, integrated gradients on tokens, and attention.

They apply to every composition. Gradients are taken with respect to maps and tokens, not to weights: frozen streams
have them too, and the `.grad` of parameters stays unchanged.
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
from multistream.nn.modules import evaluating
from multistream.nn.nested import map_stages
from multistream.runtime.device import Runtime

Flow = Literal["direct", "total"]
Score = Callable[[Tensor], Tensor]
"""Logits (B, K) -> the score (B,) to explain: a class's logit, a difference of logits, or a fused probability."""


def grad_cam(network: MultiStream, batch: Mapping[str, Tensor], *, score: Score, flow: Flow = "direct") -> Maps:
    """Computes signed Grad-CAM maps (B, h, w) of every tapped stage, without a ReLU (Selvaraju et al. 2017).

    A channel's weight is the mean of the score's gradient over the map's pixels. `direct` takes the gradient through
    the stage's own tap only, so that the maps can be added over the stages. `total` takes it through the deeper stages
    too, as Grad-CAM on a network with one output does, and includes stages without a tap. At the last stage both are
    equal. For a vector the result is each entry times its gradient, (B, D).
    """
    if flow == "direct":
        return grad_cam_of(
            network, forward_pass(network, batch, runtime=Runtime(next(iter(batch.values())).device)), score
        )
    with evaluating(network), torch.enable_grad():
        return _total_cams(network, batch, score)


def grad_cam_of(network: MultiStream, forward: ForwardPass, score: Score) -> Maps:
    """Computes direct Grad-CAM from a forward pass: the backward pass ends at the pooling, and no stream runs."""
    leaves = map_stages(forward.maps, lambda m: m.detach().clone().requires_grad_())
    with evaluating(network), torch.enable_grad():
        return _cams(network, leaves, score)


@dataclass(frozen=True)
class IntegratedGradients:
    """Integrated gradients of a batch, for each unit of a token and for the pixels behind the tokens.

    `tokens` {key: (B, T, W)} sum to the difference between the score and that of the training mean. `pixels`
    {key: {stage: (B, h, w)}}, or (B, D) for a vector, have the same sums by stage. `gap` (B,) is the absolute error of
    the pixels' sum.
    """

    tokens: dict[str, Tensor]
    pixels: Maps
    gap: Tensor


def integrated_gradients(
    network: MultiStream, forward: ForwardPass, *, score: Score, steps: int = 32, chunk: int = 8
) -> IntegratedGradients:
    """Computes integrated gradients on the tokens; the baseline is the training mean (Sundararajan et al. 2017).

    The integral is a Gauss-Legendre sum of `steps` points, `chunk` of them at a time. It applies to any tap, temporal
    and fusion.
    """
    points, weights = np.polynomial.legendre.leggauss(steps)
    with evaluating(network):
        with torch.no_grad():
            ends = {key: branch.tokens(forward.pooled[key]) for key, branch in network.branches.items()}
            starts = _tokens_of_means(network, forward)
        slopes = {key: torch.zeros_like(end) for key, end in ends.items()}
        for low in range(0, steps, chunk):
            some = torch.tensor((points[low : low + chunk] + 1) / 2, dtype=torch.float64)
            factors = torch.tensor(weights[low : low + chunk] / 2, dtype=torch.float64)
            for key, gradient in _token_gradients(network, starts, ends, some, score).items():
                slopes[key] += torch.einsum("sbtw,s->btw", gradient, factors.to(gradient))
        with torch.no_grad():
            change = score(fused_of_tokens(network, ends)) - score(fused_of_tokens(network, starts))
        pixels = _at_pixels(network, forward, slopes, points=points, weights=weights)
    tokens = {key: (ends[key] - starts[key]) * slopes[key] for key in ends}
    total = torch.stack([p.flatten(1).sum(1) for stages in pixels.values() for p in stages.values()]).sum(0)
    return IntegratedGradients(tokens, pixels, (change - total).abs())


def _tokens_of_means(network: MultiStream, forward: ForwardPass) -> dict[str, Tensor]:
    """Returns the tokens of the training mean, for each row of the batch."""
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
    """Returns the contributions of pixels and entries through tokens with these gradients {key: (B, T, W)}."""
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
    """Distributes a token's difference from the training mean over pixels or entries; the mean is spread evenly."""
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
    """Distributes it for a nonlinear tap: integrates over the path from a map of zeros to this map.

    The difference between the token of the zero map and that of the training mean has no location in the photo; it is
    spread evenly, as for a linear tap.
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
    """Returns the attention weights of the steps, {key: (B, T)}, for branches whose temporal has them."""
    by_stream = {}
    with evaluating(network):
        for key, branch in network.branches.items():
            weights = branch.temporal.attention(branch.tokens(pooled[key])) if branch.temporal else None
            if weights is not None:
                by_stream[key] = weights
    return by_stream


def fused_of_tokens(network: MultiStream, tokens: Mapping[str, Tensor]) -> Tensor:
    """Computes the fused logits (B, K) of tokens {key: (B, T, W)}."""
    vectors = {
        key: branch.temporal(tokens[key]) if branch.temporal else tokens[key].squeeze(1)
        for key, branch in network.branches.items()
    }
    logits: Tensor = network.fusion(vectors).logits
    return logits


def _token_gradients(
    network: MultiStream, starts: Mapping[str, Tensor], ends: Mapping[str, Tensor], points: Tensor, score: Score
) -> dict[str, Tensor]:
    """Returns the score's gradient with respect to the tokens at points of the path, {key: (points, B, T, W)}."""
    with torch.enable_grad():
        way = {
            key: (starts[key] + points.to(end).view(-1, 1, 1, 1) * (end - starts[key])).requires_grad_()
            for key, end in ends.items()
        }
        value = score(fused_of_tokens(network, {key: w.flatten(0, 1) for key, w in way.items()})).sum()
        return dict(zip(way, torch.autograd.grad(value, list(way.values())), strict=True))


def _cams(network: MultiStream, maps: Maps, score: Score) -> Maps:
    """Weights each map's channels with their mean gradients and sums over the channels; a vector times its gradient."""
    pooled = pooled_maps(network, maps)
    flat = [maps[key][stage] for key in pooled for stage in maps[key]]
    gradients = iter(torch.autograd.grad(score(network.classify(pooled)).sum(), flat, materialize_grads=True))
    cams: Maps = {}
    for key in pooled:
        for stage, m in maps[key].items():
            cams.setdefault(key, {})[stage] = _cam(next(gradients), m.detach())
    return cams


def _cam(gradient: Tensor, leaf: Tensor) -> Tensor:
    """Weights and sums a map (B, C, h, w) into (B, h, w), or multiplies a vector (B, D) with its gradient."""
    return gradient * leaf if leaf.ndim == 2 else (gradient.mean((2, 3), keepdim=True) * leaf).sum(1)


def _total_cams(network: MultiStream, batch: Mapping[str, Tensor], score: Score) -> Maps:
    """Like `_cams`, with gradients through all deeper stages too, and for stages without a tap.

    Gradients are taken with respect to a stage's output and then rearranged as a map: if the output is tokens, the next
    stage reads the tokens, not the map.
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
    """Returns the outputs of all stages, tapped or not, or the maps of a stream that overrides `forward`."""
    stream = branch.stream
    # A float input with requires_grad makes every stage record gradients, including frozen stages.
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
