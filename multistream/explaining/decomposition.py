"""The exact decomposition: every logit as a sum over streams, stages, pixels and vector entries, plus bias.

With linear taps, temporals and heads a logit is an affine function of the pooled features, and the pooled feature of a
channel is the mean over its map's pixels. So with the coefficients J (K, P) of a stage,

    logit_k = bias_k + sum over stages, pixels of  sum_c J_kc map_c(y, x) / (h w)  + sum over vectors, d of J_kd x_d

to rounding. Where a part is not linear the same formula with the gradient in the place of J explains the logit near
this image only ("local"), and no sum need be exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from multistream.explaining.observing import Maps, Observed, observe
from multistream.explaining.targets import Chosen
from multistream.network.network import MultiStream, Pooled
from multistream.nn.eval_mode import evaluating
from multistream.runtime.device import Runtime

Read = Callable[[Pooled], Tensor]
"""Pooled features -> logits (B, K)."""

Coefficients = dict[str, dict[str, Tensor]]
"""{key: {stage: (K, P)}} where they hold for every image, (B, K, P) where they are gradients at one."""

Kind = Literal["exact", "local", "gradient"]
"""Of a stream's evidence: a sum for every image; a sum near this image (a head that is not linear); no sum at all."""


@dataclass(frozen=True)
class Decomposition:
    """What each part of a batch's evidence gave to the logits.

    `targets` names what was decomposed: one entry, "", for the fused logits, or one for each stream's own logits
    (late, gated: what they fuse are probabilities). All sums hold within a target.
    """

    logits: Mapping[str, Tensor]
    """{target: (B, K)}"""
    bias: Mapping[str, Tensor]
    """{target: (K,)}, or (B, K) where it is local."""
    maps: Mapping[str, Mapping[str, Tensor]]
    """{key: {stage: (B, K, h, w)}}, on the logit scale, signed."""
    vectors: Mapping[str, Tensor]
    """{key: (B, K, D)}"""
    kinds: Mapping[str, Kind]
    """What can be said of the sum, by key of the stream."""
    probabilities: Mapping[str, Tensor]
    """{key: (B, K)} of each stream's own classifier, where the fusion has them."""
    fused: Tensor
    """softmax of the network's logits, (B, K)."""

    @property
    def exact(self) -> dict[str, bool]:
        """Whether the sum is exact by construction, by key of the stream."""
        return {key: kind == "exact" for key, kind in self.kinds.items()}

    @property
    def targets(self) -> dict[str, tuple[str, ...]]:
        """{target: the keys of the streams whose evidence sums to it}."""
        keys = (*self.maps, *self.vectors)
        return {"": keys} if "" in self.logits else {key: (key,) for key in self.logits}

    def residual(self) -> Tensor:
        """The largest |logit - sum of all its parts|, relative to max(1, |logit|), of each image (B,)."""
        worst = [torch.zeros(len(self.fused), dtype=torch.float64)]
        for target, keys in self.targets.items():
            total = self.bias[target].double().expand_as(self.logits[target]).clone()
            for key in keys:
                total += sum_of_parts(self, key)
            logits = self.logits[target].double()
            worst.append(((logits - total).abs() / logits.abs().clamp_min(1)).amax(1).cpu())
        return torch.stack(worst).amax(0)


def sum_of_parts(found: Decomposition, key: str) -> Tensor:
    """What one stream gave to its target, (B, K) float64."""
    if key in found.vectors:
        return found.vectors[key].sum(2, dtype=torch.float64)
    return torch.stack([m.sum((2, 3), dtype=torch.float64) for m in found.maps[key].values()]).sum(0)


def decompose(network: MultiStream, batch: Mapping[str, Tensor], *, runtime: Runtime) -> Decomposition:
    """Decomposes the logits of all classes of a batch in one forward pass, without a backward through the streams.

    Leaves modes, gradients and weights as they were.
    """
    return Decomposer(network).decompose(observe(network, batch, runtime=runtime))


class Decomposer:
    """Decomposes batch after batch; where the network is linear its coefficients are found once."""

    def __init__(self, network: MultiStream) -> None:
        self.network = network
        whole = is_linear(network) or not network.fusion.heads
        self.targets = {"": tuple(network.branches)} if whole else {key: (key,) for key in network.branches}
        self._linear: dict[str, tuple[Coefficients, Tensor]] = {}

    def kind(self, target: str) -> Kind:
        """What can be said of the sum that is to give a target's logits."""
        if target == "":
            return "exact" if is_linear(self.network) else "gradient"
        if is_linear_stream(self.network, target):
            return "exact"
        return "local" if _is_linear_branch(self.network, target) else "gradient"

    @property
    def kinds(self) -> dict[str, Kind]:
        """The kind of each stream's evidence."""
        return {key: self.kind(target) for target, keys in self.targets.items() for key in keys}

    def decompose(self, seen: Observed, chosen: Chosen | None = None) -> Decomposition:
        """All classes of a batch that was observed, or what was chosen alone: then K is 1, and little is computed."""
        coefficients: Coefficients = {}
        logits, bias = {}, {}
        with evaluating(self.network):
            for target, keys in self.targets.items():
                logits[target] = seen.output.streams[target] if target else seen.output.logits
                found, bias[target] = self._coefficients(
                    target, {key: seen.pooled[key] for key in keys}, logits[target]
                )
                coefficients |= found
        if chosen is not None:
            logits = {target: chosen.pick(values).unsqueeze(1) for target, values in logits.items()}
            bias = {target: _picked(values, 1, chosen) for target, values in bias.items()}
            coefficients = {
                key: {stage: _picked(values, 2, chosen) for stage, values in stages.items()}
                for key, stages in coefficients.items()
            }
        maps, vectors = located(self.network, seen, coefficients)
        return Decomposition(
            logits=logits,
            bias=bias,
            maps=maps,
            vectors=vectors,
            kinds=self.kinds,
            probabilities={key: own.double().softmax(1) for key, own in seen.output.streams.items()},
            fused=seen.fused,
        )

    def _coefficients(self, target: str, pooled: Pooled, logits: Tensor) -> tuple[Coefficients, Tensor]:
        """Coefficients and bias of a target: exact where it is linear, else gradients and what they leave over."""
        read = self._reader(target)
        if self.kind(target) == "exact":
            if target not in self._linear:
                nothing = {k: {s: torch.zeros_like(p[:1]) for s, p in stages.items()} for k, stages in pooled.items()}
                found, at = gradients_of_classes(read, nothing)
                self._linear[target] = ({k: {s: j[0] for s, j in stages.items()} for k, stages in found.items()}, at[0])
            return self._linear[target]
        found, _ = gradients_of_classes(read, pooled)
        given = [torch.einsum("bkp,bp->bk", found[k][s], pooled[k][s]) for k in pooled for s in pooled[k]]
        return found, logits - torch.stack(given).sum(0)

    def _reader(self, target: str) -> Read:
        """pooled features -> the target's logits (B, K)."""
        network = self.network
        if target == "":
            return network.classify
        return lambda pooled: network.fusion.heads[target](network.branches[target](pooled[target]))


def _picked(values: Tensor, dimensions: int, chosen: Chosen) -> Tensor:
    """What was chosen of (K, ...), the same for all photos, or of (B, K, ...), as (B, 1, ...)."""
    rows = values.expand(len(chosen.rows), *values.shape) if values.ndim == dimensions else values
    return chosen.pick(rows).unsqueeze(1)


def is_linear(network: MultiStream) -> bool:
    """Whether every fused logit is an affine function of all pooled features."""
    return network.fusion.linear and all(_is_linear_branch(network, key) for key in network.branches)


def is_linear_stream(network: MultiStream, key: str) -> bool:
    """Whether this stream's own logits are an affine function of its pooled features."""
    return isinstance(network.fusion.heads[key], nn.Linear) and _is_linear_branch(network, key)


def _is_linear_branch(network: MultiStream, key: str) -> bool:
    branch = network.branches[key]
    return all(tap.linear for tap in branch.taps.values()) and (branch.temporal is None or branch.temporal.linear)


def gradients_of_classes(read: Read, pooled: Pooled) -> tuple[Coefficients, Tensor]:
    """Gradients {key: {stage: (B, K, P)}} of each class's logit at these images, and the logits (B, K).

    One backward pass: every image stands there K times, once for each class.
    """
    with torch.no_grad():
        at = read(pooled)
    size, classes = at.shape
    leaves = {
        k: {s: p.detach().repeat_interleave(classes, 0).requires_grad_() for s, p in stages.items()}
        for k, stages in pooled.items()
    }
    flat = [leaf for stages in leaves.values() for leaf in stages.values()]
    with torch.enable_grad():
        own = read(leaves).unflatten(0, (size, classes)).diagonal(dim1=1, dim2=2).sum()
        gradients = iter(torch.autograd.grad(own, flat, materialize_grads=True))
    return {k: {s: next(gradients).unflatten(0, (size, classes)) for s in stages} for k, stages in leaves.items()}, at


@torch.no_grad()
def located(network: MultiStream, seen: Observed, coefficients: Coefficients) -> tuple[Maps, dict[str, Tensor]]:
    """Spreads coefficients over the maps' pixels {key: {stage: (B, K, h, w)}} and the vectors' entries (B, K, D)."""
    maps, vectors = {}, {}
    for key, branch in network.branches.items():
        if branch.is_vector:
            (stage,) = branch.taps
            vectors[key] = coefficients[key][stage] * seen.pooled[key][stage].unsqueeze(1)
        else:
            maps[key] = {s: tap.locate(coefficients[key][s], seen.maps[key][s]) for s, tap in branch.taps.items()}
    return maps, vectors
