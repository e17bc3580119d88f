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

import torch
from torch import Tensor, nn

from multistream.interfaces import FusionOutput
from multistream.modes import evaluating
from multistream.network import MultiStream, Pooled
from multistream.parts.fusions import Solo
from multistream.runtime import Runtime

Read = Callable[[Pooled], Tensor]
"""Pooled features -> logits (B, K)."""

Coefficients = dict[str, dict[str, Tensor]]
"""{key: {stage: (K, P)}} where they hold for every image, (B, K, P) where they are gradients at one."""


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
    exact: Mapping[str, bool]
    """Whether the sum is exact by construction, by key of the stream; False marks a local explanation."""
    probabilities: Mapping[str, Tensor]
    """{key: (B, K)} of each stream's own classifier, where the fusion has them."""
    fused: Tensor
    """softmax of the network's logits, (B, K)."""

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
        return found.vectors[key].double().sum(2)
    return torch.stack([m.double().sum((2, 3)) for m in found.maps[key].values()]).sum(0)


def decompose(network: MultiStream, batch: Mapping[str, Tensor], *, runtime: Runtime) -> Decomposition:
    """Decomposes the logits of all classes of a batch in one forward pass, without a backward through the streams.

    Leaves modes, gradients and weights as they were.
    """
    with evaluating(network):
        with torch.no_grad(), runtime.autocast:
            maps = {k: b.stream(batch[b.entry(k, batch)]) for k, b in network.branches.items()}
            pooled = {k: {s: t.pool(maps[k][s]) for s, t in b.taps.items()} for k, b in network.branches.items()}
        whole = "" if is_linear(network) or not network.fusion.heads else None
        targets = [""] if whole == "" else list(network.branches)
        logits: dict[str, Tensor] = {}
        bias: dict[str, Tensor] = {}
        coefficients: Coefficients = {}
        exact: dict[str, bool] = {}
        for target in targets:
            keys = list(network.branches) if target == "" else [target]
            some = {key: pooled[key] for key in keys}
            linear = is_linear(network) if target == "" else is_linear_stream(network, target)
            read = _reader(network, target)
            logits[target], found, bias[target] = _coefficients(read, some, linear=linear)
            coefficients |= found
            exact |= dict.fromkeys(keys, linear)
        with torch.no_grad():
            output = network.fuse(pooled)
            return _located(network, maps, pooled, coefficients, logits=logits, bias=bias, exact=exact, output=output)


def is_linear(network: MultiStream) -> bool:
    """Whether every fused logit is an affine function of all pooled features."""
    return network.fusion.linear and all(_is_linear_branch(network, key) for key in network.branches)


def is_linear_stream(network: MultiStream, key: str) -> bool:
    """Whether this stream's own logits are an affine function of its pooled features."""
    return isinstance(network.fusion.heads[key], nn.Linear) and _is_linear_branch(network, key)


def _is_linear_branch(network: MultiStream, key: str) -> bool:
    branch = network.branches[key]
    return all(tap.linear for tap in branch.taps.values()) and (branch.temporal is None or branch.temporal.linear)


def _reader(network: MultiStream, target: str) -> Read:
    """pooled features -> the target's logits (B, K)."""
    if target == "" or isinstance(network.fusion, Solo):
        return network.classify
    return lambda pooled: network.fusion.heads[target](network.branches[target](pooled[target]))


def _coefficients(read: Read, pooled: Pooled, *, linear: bool) -> tuple[Tensor, Coefficients, Tensor]:
    """(logits (B, K), coefficients, bias): exact where `linear`, else gradients at these images and what is left."""
    logits = read(pooled).detach()
    points = {
        k: {s: torch.zeros_like(p[:1]) if linear else p for s, p in stages.items()} for k, stages in pooled.items()
    }
    leaves = {k: {s: p.detach().clone().requires_grad_() for s, p in stages.items()} for k, stages in points.items()}
    flat = [leaf for stages in leaves.values() for leaf in stages.values()]
    with torch.enable_grad():
        at = read(leaves)
        rows = [torch.autograd.grad(at[:, k].sum(), flat, retain_graph=True) for k in range(at.shape[1])]
    stacked = iter([torch.stack([row[i] for row in rows], dim=1) for i in range(len(flat))])  # (B, K, P) each
    found = {k: {s: next(stacked) for s in stages} for k, stages in leaves.items()}
    if linear:
        return logits, {k: {s: j[0] for s, j in stages.items()} for k, stages in found.items()}, at.detach()[0]
    given = [torch.einsum("bkp,bp->bk", found[k][s], pooled[k][s]) for k in pooled for s in pooled[k]]
    return logits, found, logits - torch.stack(given).sum(0)


def _located(
    network: MultiStream,
    maps: Pooled,
    pooled: Pooled,
    coefficients: Coefficients,
    *,
    logits: Mapping[str, Tensor],
    bias: Mapping[str, Tensor],
    exact: Mapping[str, bool],
    output: FusionOutput,
) -> Decomposition:
    """Spreads the coefficients over the maps' pixels and the vectors' entries."""
    located, vectors = {}, {}
    for key, branch in network.branches.items():
        if branch.is_vector:
            (stage,) = branch.taps
            vectors[key] = coefficients[key][stage] * pooled[key][stage].unsqueeze(1)
        else:
            located[key] = {s: tap.locate(coefficients[key][s], maps[key][s]) for s, tap in branch.taps.items()}
    return Decomposition(
        logits=logits,
        bias=bias,
        maps=located,
        vectors=vectors,
        exact=exact,
        probabilities={key: own.double().softmax(1) for key, own in output.streams.items()},
        fused=output.logits.double().softmax(1),
    )
