"""Who gave how much: exact Shapley values of streams, Owen values of stages, pairwise interactions of streams.

The players are the streams, or their taps in groups by stream. A coalition's value is the network's output with the
absent ones replaced by a baseline: `mean` (the training mean of their pooled features), `zero` (pooled features of 0)
or `drop` (the fusion goes on without the stream; the value of nobody is the class prior).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from multistream.errors import UsageError
from multistream.explaining.games import coalitions, interactions, owen, shapley
from multistream.network.network import Branch, MultiStream, Pooled
from multistream.nn.eval_mode import evaluating

Baseline = Literal["mean", "zero", "drop"]
Scale = Literal["logit", "probability"]


@dataclass(frozen=True)
class Attribution:
    """Shapley values (B, K, S) of S streams and their interactions (B, K, S, S); stages (B, K, T) by key, or none.

    `everybody` and `nobody` (B, K) are the values of the full and the empty coalition: the streams' values sum to
    their difference, a stream's stages to the stream's value.
    """

    keys: tuple[str, ...]
    baseline: Baseline
    scale: Scale
    streams: Tensor
    interactions: Tensor
    stages: Mapping[str, Tensor]
    everybody: Tensor
    nobody: Tensor


class Evidence:
    """Pooled features with everything that can be taken away from them; gives v of any coalition of taps."""

    def __init__(self, network: MultiStream, pooled: Pooled, *, baseline: Baseline, scale: Scale) -> None:
        self.network, self.pooled, self.baseline, self.scale = network, pooled, baseline, scale
        self.taps = [(key, stage) for key, branch in network.branches.items() for stage in branch.taps]
        self.vectors: dict[tuple[str, tuple[bool, ...]], Tensor] = {}

    def value(self, present: Mapping[str, tuple[bool, ...]]) -> Tensor:
        """v (B, K) float64 of a coalition: for each stream, which of its taps are present."""
        vectors = {key: self._vector(key, taps) for key, taps in present.items()}
        if self.baseline != "drop":
            return self._scaled(self.network.fusion(vectors).logits)
        kept = frozenset(key for key, taps in present.items() if any(taps))
        if kept:
            return self._scaled(self.network.fusion(vectors, kept).logits)
        prior = self.network.prior.double().expand(len(next(iter(vectors.values()))), -1)
        return prior if self.scale == "probability" else prior.clamp_min(1e-12).log()

    def of_streams(self, rows: Tensor) -> Tensor:
        """v (M, B, K) of coalitions of streams (M, S)."""
        branches = self.network.branches
        return torch.stack(
            [
                self.value({k: (bool(on),) * len(branches[k].taps) for k, on in zip(branches, row, strict=True)})
                for row in rows
            ]
        )

    def of_taps(self, rows: Tensor) -> Tensor:
        """v (M, B, K) of coalitions of taps (M, T), counted stream by stream."""
        found = []
        for row in rows.tolist():
            present: dict[str, tuple[bool, ...]] = {}
            for (key, _), on in zip(self.taps, row, strict=True):
                present[key] = (*present.get(key, ()), on)
            found.append(self.value(present))
        return torch.stack(found)

    def _vector(self, key: str, taps: tuple[bool, ...]) -> Tensor:
        """A branch's vector with the absent taps replaced; each combination is computed once."""
        if (key, taps) not in self.vectors:
            branch = self.network.branches[key]
            stages = zip(branch.taps, taps, strict=True)
            given = {s: self.pooled[key][s] if on else self._absent(branch, key, s) for s, on in stages}
            self.vectors[key, taps] = branch(given)
        return self.vectors[key, taps]

    def _absent(self, branch: Branch, key: str, stage: str) -> Tensor:
        there = self.pooled[key][stage]
        return torch.zeros_like(there) if self.baseline == "zero" else branch.taps[stage].baseline.expand_as(there)

    def _scaled(self, logits: Tensor) -> Tensor:
        return logits.double() if self.scale == "logit" else logits.double().softmax(1)


@torch.no_grad()
def attribute(
    network: MultiStream,
    pooled: Pooled,
    *,
    baseline: Baseline = "mean",
    scale: Scale = "logit",
    stages: bool = True,
) -> Attribution:
    """Exact Shapley values of the streams, and with `stages` Owen values of their taps, for all classes of a batch.

    2^S runs of the fusion, and 2^(S-1) x 2^T for the taps of each stream: nothing of the streams runs again.
    """
    if baseline == "drop" and stages:
        stages = False  # a fusion can go on without a stream, but no temporal without a step
    if baseline not in ("mean", "zero", "drop"):
        raise UsageError("baseline", f"{baseline!r} is unknown.", right="mean, zero or drop.")
    keys = tuple(network.branches)
    with evaluating(network):
        evidence = Evidence(network, pooled, baseline=baseline, scale=scale)
        table = evidence.of_streams(coalitions(len(keys)))
        sizes = [len(branch.taps) for branch in network.branches.values()]
        by_tap = owen(evidence.of_taps, sizes).split(sizes) if stages else ()
    return Attribution(
        keys=keys,
        baseline=baseline,
        scale=scale,
        streams=shapley(table).movedim(0, -1),
        interactions=interactions(table).movedim((0, 1), (-2, -1)),
        stages={key: part.movedim(0, -1) for key, part in zip(keys, by_tap, strict=False)},
        everybody=table[-1],
        nobody=table[0],
    )
