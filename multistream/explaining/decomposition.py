"""The exact decomposition: every logit as a sum over streams, stages, pixels and vector entries, plus a bias.

With linear taps, temporals and heads a logit is an affine function of the pooled features, and the pooled feature of a
channel is the mean over its map's pixels. So with the coefficients J (K, P) of a stage,

    logit_k = bias_k + sum over stages, pixels of  sum_c J_kc map_c(y, x) / (h w)  + sum over vectors, d of J_kd x_d

up to rounding. If a head is not linear, the gradient replaces J: the result holds near this image only ("local") and is
not an exact sum. A sum that differs from the logit is never called exact, even if all components declare `linear`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from multistream.explaining.forward import ForwardPass, Maps, forward_pass
from multistream.explaining.linearity import false_claim, is_linear, is_linear_branch, is_linear_stream
from multistream.explaining.targets import TargetColumns
from multistream.network.network import MultiStream, Pooled
from multistream.nn.modules import evaluating
from multistream.nn.nested import map_stages, take_rows
from multistream.runtime.device import Runtime

ReadLogits = Callable[[Pooled], Tensor]
"""Pooled features -> logits (B, K)."""

Coefficients = dict[str, dict[str, Tensor]]
"""{key: {stage: (K, P)}} if they hold for every image, (B, K, P) if they are gradients at each image."""

ContributionKind = Literal["exact", "local", "gradient"]
"""exact: contributions sum to the logit; local: gradient x input near this image; gradient: no sum."""

TOLERANCE = 1e-4
"""The largest residual, relative to max(1, |logit|), at which a sum counts as exact. Rounding alone gives 1e-6."""


@dataclass(frozen=True)
class Decomposition:
    """The contributions of a batch's maps and vectors to the logits.

    `logits` has the entry "" for the fused logits, or one entry for each stream's own logits (late and gated fusion
    average probabilities). K is the number of classes, or 1 if only one target was decomposed.
    """

    logits: Mapping[str, Tensor]
    """{name: (B, K)}"""
    bias: Mapping[str, Tensor]
    """{name: (B, K)} of the logits whose sum is exact."""
    remainder: Mapping[str, Tensor]
    """{name: (B, K)} of the other logits: the logit minus the sum of gradient x input."""
    maps: Mapping[str, Mapping[str, Tensor]]
    """{key: {stage: (B, K, h, w)}}, signed, on the logit scale."""
    vectors: Mapping[str, Tensor]
    """{key: (B, K, D)}"""
    kinds: Mapping[str, ContributionKind]
    """The kind of contributions of each stream, by key."""
    residuals: Mapping[str, Tensor]
    """{name: (B,)}, the largest |logit - sum| of each image relative to max(1, |logit|), for sums declared exact."""
    faults: tuple[str, ...] = ()
    """Why a sum that the components declare exact is not exact."""

    @property
    def residual(self) -> Tensor | None:
        """The largest of the `residuals` of each image, (B,); None if no sum is declared exact."""
        return torch.stack(list(self.residuals.values())).amax(0) if self.residuals else None

    @property
    def targets(self) -> dict[str, tuple[str, ...]]:
        """{name of the logits: the keys of the streams that contribute to them}."""
        keys = (*self.maps, *self.vectors)
        return {"": keys} if "" in self.logits else {key: (key,) for key in self.logits}


def decompose(network: MultiStream, batch: Mapping[str, Tensor], *, runtime: Runtime) -> Decomposition:
    """Decomposes the logits of all classes of a batch in one forward pass, without a backward pass of the streams.

    Modes, gradients and weights stay unchanged.
    """
    return Decomposer(network).decompose(forward_pass(network, batch, runtime=runtime))


class Decomposer:
    """Decomposes batch after batch; the coefficients of a linear network are computed once."""

    def __init__(self, network: MultiStream) -> None:
        self.network = network
        whole = is_linear(network) or not network.fusion.heads
        self.targets = {"": tuple(network.branches)} if whole else {key: (key,) for key in network.branches}
        self._linear: dict[str, tuple[Coefficients, Tensor]] = {}

    def kind(self, target: str) -> ContributionKind:
        """Returns the kind of contributions to a target's logits, as its components declare it."""
        if target == "":
            return "exact" if is_linear(self.network) else "gradient"
        if is_linear_stream(self.network, target):
            return "exact"
        return "local" if is_linear_branch(self.network.branches[target]) else "gradient"

    @property
    def kinds(self) -> dict[str, ContributionKind]:
        """The kind of contributions of each stream, as its components declare it."""
        return {key: self.kind(target) for target, keys in self.targets.items() for key in keys}

    def _exact_targets(self) -> dict[str, tuple[str, ...]]:
        """Returns the targets whose contributions are declared to sum to the logits, with the keys of their streams."""
        return {target: keys for target, keys in self.targets.items() if self.kind(target) == "exact"}

    def decompose(self, forward: ForwardPass, columns: TargetColumns | None = None) -> Decomposition:
        """Decomposes the logits of all classes of a batch, or only those of `columns` (K = 1, at a lower cost)."""
        coefficients: Coefficients = {}
        logits, constant = {}, {}
        with evaluating(self.network):
            for target, keys in self.targets.items():
                read, pooled = self._reader(target), {key: forward.pooled[key] for key in keys}
                logits[target] = self._logits(target, forward, read)
                of_target, constant[target] = self._coefficients(target, read, pooled, logits[target])
                coefficients |= of_target
        if columns is not None:
            logits = {target: columns.pick(values).unsqueeze(1) for target, values in logits.items()}
            constant = {target: _picked(values, 1, columns) for target, values in constant.items()}
            coefficients = map_stages(coefficients, lambda values: _picked(values, 2, columns))
        maps, vectors = located(self.network, forward, coefficients)
        constant = {target: values.expand_as(logits[target]) for target, values in constant.items()}
        return self._checked(forward, logits, constant, maps, vectors)

    def _checked(
        self,
        forward: ForwardPass,
        logits: Mapping[str, Tensor],
        constant: Mapping[str, Tensor],
        maps: Maps,
        vectors: Mapping[str, Tensor],
    ) -> Decomposition:
        """Compares the sums that are declared exact with the logits, and returns the decomposition."""
        kinds, residuals, faults, remainder = self.kinds, {}, [], dict(constant)
        for target, keys in self._exact_targets().items():
            wanted = logits[target].double()
            remainder[target] = wanted - torch.stack([contribution(maps, vectors, key) for key in keys]).sum(0)
            missing = (remainder[target] - constant[target].double()).abs()
            residuals[target] = (missing / wanted.abs().clamp_min(1)).amax(1).cpu()
            worst = float(residuals[target].max())
            if not worst <= TOLERANCE:
                kinds |= dict.fromkeys(keys, "gradient")
                name = f"the logits of {target}" if target else "the logits"
                faults.append(
                    f"no exact sum of {name}: relative residual {worst:.1e}. {false_claim(self.network, forward)}"
                )
        exact = [target for target, keys in self.targets.items() if all(kinds[key] == "exact" for key in keys)]
        return Decomposition(
            logits=logits,
            bias={target: constant[target] for target in exact},
            remainder={target: values for target, values in remainder.items() if target not in exact},
            maps=maps,
            vectors=vectors,
            kinds=kinds,
            residuals=residuals,
            faults=tuple(faults),
        )

    def _coefficients(
        self, target: str, read: ReadLogits, pooled: Pooled, logits: Tensor
    ) -> tuple[Coefficients, Tensor]:
        """Returns a target's coefficients and constant: exact if it is linear, else gradients and the remainder."""
        if self.kind(target) == "exact":
            if target not in self._linear:
                nothing = map_stages(pooled, lambda p: torch.zeros_like(p[:1]))
                gradients, at = gradients_of_classes(read, nothing)
                self._linear[target] = (take_rows(gradients, 0), at[0])
            return self._linear[target]
        gradients, _ = gradients_of_classes(read, pooled)
        contributions = [torch.einsum("bkp,bp->bk", gradients[k][s], pooled[k][s]) for k in pooled for s in pooled[k]]
        return gradients, logits - torch.stack(contributions).sum(0)

    def _reader(self, target: str) -> ReadLogits:
        """Returns the function from pooled features to the target's logits (B, K)."""
        network = self.network
        if target == "":
            return network.classify
        return lambda pooled: network.fusion.stream_logits(target, network.branches[target](pooled[target]))

    @torch.no_grad()
    def _logits(self, target: str, forward: ForwardPass, read: ReadLogits) -> Tensor:
        if target == "":
            return forward.output.logits
        logits = forward.output.streams.get(target)
        return read({target: forward.pooled[target]}) if logits is None else logits


def contribution(maps: Mapping[str, Mapping[str, Tensor]], vectors: Mapping[str, Tensor], key: str) -> Tensor:
    """Sums the contributions of one stream, (B, K) float64."""
    if key in vectors:
        return vectors[key].sum(2, dtype=torch.float64)
    return torch.stack([m.sum((2, 3), dtype=torch.float64) for m in maps[key].values()]).sum(0)


def _picked(values: Tensor, dimensions: int, columns: TargetColumns) -> Tensor:
    """Selects columns of (K, ...), equal for all photos, or of (B, K, ...); returns (B, 1, ...)."""
    rows = values.expand(len(columns.rows), *values.shape) if values.ndim == dimensions else values
    return columns.pick(rows).unsqueeze(1)


def gradients_of_classes(read: ReadLogits, pooled: Pooled) -> tuple[Coefficients, Tensor]:
    """Returns the gradients {key: {stage: (B, K, P)}} of each class's logit at these images, and the logits (B, K).

    There is one backward pass, in which every image appears K times, once for each class.
    """
    with torch.no_grad():
        at = read(pooled)
    size, classes = at.shape
    leaves = map_stages(pooled, lambda p: p.detach().repeat_interleave(classes, 0).requires_grad_())
    flat = [leaf for stages in leaves.values() for leaf in stages.values()]
    with torch.enable_grad():
        total = read(leaves).unflatten(0, (size, classes)).diagonal(dim1=1, dim2=2).sum()
        gradients = iter(torch.autograd.grad(total, flat, materialize_grads=True))
    return {k: {s: next(gradients).unflatten(0, (size, classes)) for s in stages} for k, stages in leaves.items()}, at


@torch.no_grad()
def located(network: MultiStream, forward: ForwardPass, coefficients: Coefficients) -> tuple[Maps, dict[str, Tensor]]:
    """Distributes coefficients over the maps' pixels, {key: {stage: (B, K, h, w)}}, and vectors' entries (B, K, D)."""
    maps, vectors = {}, {}
    for key, branch in network.branches.items():
        if branch.is_vector:
            (stage,) = branch.taps
            vectors[key] = coefficients[key][stage] * forward.pooled[key][stage].unsqueeze(1)
        else:
            maps[key] = {s: tap.locate(coefficients[key][s], forward.maps[key][s]) for s, tap in branch.taps.items()}
    return maps, vectors
