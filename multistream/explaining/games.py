"""Exact Shapley values of streams, exact Owen values of stages, and pairwise interactions of streams.

The players are the streams, or their taps in groups by stream. A coalition's value is the network's output with the
absent players replaced by a baseline: `mean` (the training mean of their pooled features), `zero` (pooled features of
0) or `drop` (the fusion runs without the stream; the value of the empty coalition is the class prior).

A game of n players is a table of values, one row per coalition: row `mask` holds v(S) for S = {i: bit i of mask is
set}. Further dimensions (images, classes) are kept. The computation uses the table's dtype; float64 is recommended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from math import comb
from typing import Literal, get_args

import torch
from torch import Tensor

from multistream.errors import check_choice
from multistream.explaining.targets import Scale
from multistream.network.branch import Branch
from multistream.network.network import MultiStream, Pooled
from multistream.nn.modules import evaluating

Baseline = Literal["mean", "zero", "drop"]

MOST_PLAYERS = 14
"""The largest number of players (2^14 coalitions): exact values of larger games take too long."""


def coalitions(players: int) -> Tensor:
    """Returns every coalition of n players as a boolean row, (2^n, n): column i of row `mask` is bit i of `mask`.

    >>> coalitions(2).tolist()
    [[False, False], [True, False], [False, True], [True, True]]
    """
    if players > MOST_PLAYERS:
        raise ValueError(
            f"{players} players make {2**players:,} coalitions. At most {MOST_PLAYERS} are computed exactly."
        )
    masks = torch.arange(2**players)
    return (masks[:, None] >> torch.arange(players)) & 1 == 1


def shapley(values: Tensor) -> Tensor:
    """Computes the Shapley values (n, ...) of a game (2^n, ...) (Shapley 1953).

    A player's value is its mean marginal contribution over all orders. The values sum to v(all) - v(none).

    >>> shapley(torch.tensor([0.0, 1.0, 2.0, 4.0])).tolist()
    [1.5, 2.5]
    """
    players = _players(values)
    masks = torch.arange(2**players)
    sizes = coalitions(players).sum(1)
    by_player = []
    for player in range(players):
        without = masks[masks >> player & 1 == 0]
        weights = _weights(players, sizes[without], values)
        by_player.append(((values[without | 1 << player] - values[without]) * weights).sum(0))
    return torch.stack(by_player)


def interactions(values: Tensor) -> Tensor:
    """Computes the Shapley interaction index (n, n, ...) of every pair (Grabisch and Roubens 1999).

    It is positive if two players together contribute more than the sum of their own contributions. The diagonal is 0.
    """
    players = _players(values)
    masks = torch.arange(2**players)
    sizes = coalitions(players).sum(1)
    index = values.new_zeros(players, players, *values.shape[1:])
    for i, j in combinations(range(players), 2):
        both = 1 << i | 1 << j
        without = masks[masks & both == 0]
        weights = _weights(players - 1, sizes[without], values)
        change = values[without | both] - values[without | 1 << i] - values[without | 1 << j] + values[without]
        index[i, j] = index[j, i] = (change * weights).sum(0)
    return index


def owen(value: Callable[[Tensor], Tensor], groups: Sequence[int]) -> Tensor:
    """Computes the Owen values (n, ...) of players in groups (Owen 1977).

    The values of a group's players sum to the group's Shapley value among the groups. `groups` are the numbers of
    players in each group; players are numbered group by group. `value` maps coalitions (M, n) of booleans to v
    (M, ...). The other groups are always complete or absent, so each group needs only 2^(groups - 1) x 2^(size of the
    group) coalitions.
    """
    starts = list(chain([0], torch.tensor(list(groups)).cumsum(0).tolist()))
    by_group: list[Tensor] = []
    for place, size in enumerate(groups):
        others = coalitions(len(groups) - 1)
        inner = coalitions(size)
        rows = torch.zeros(len(others), len(inner), starts[-1], dtype=torch.bool)
        rows[:, :, starts[place] : starts[place + 1]] = inner
        for column, other in enumerate(g for g in range(len(groups)) if g != place):
            rows[:, :, starts[other] : starts[other + 1]] = others[:, None, column, None]
        table = value(rows.flatten(0, 1)).unflatten(0, (len(others), len(inner)))
        outer = _weights(len(groups), others.sum(1), table[:, 0])
        by_group.append(shapley((table * outer.unsqueeze(1)).sum(0)))
    return torch.cat(by_group)


def _players(values: Tensor) -> int:
    players = len(values).bit_length() - 1
    if len(values) != 2**players:
        raise ValueError(f"a game's table has {len(values)} rows. It must have 2^n rows, one for each coalition.")
    return players


def _weights(players: int, sizes: Tensor, like: Tensor) -> Tensor:
    """Returns the fraction of the players' orders that start with a coalition of each size, broadcastable to `like`."""
    by_size = [1 / (players * comb(players - 1, size)) for size in range(players)]
    weights = torch.tensor(by_size, dtype=torch.float64)[sizes].to(like)
    return weights.view(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True)
class ShapleyValues:
    """Shapley values (B, K, S) of S streams, interactions (B, K, S, S), and Owen values {key: (B, K, T)} of stages.

    `full` and `empty` (B, K) are the values of the full and the empty coalition: the streams' values sum to their
    difference. The values of a stream's stages sum to the stream's value; `stages` may be empty.
    """

    keys: tuple[str, ...]
    baseline: Baseline
    scale: Scale
    streams: Tensor
    interactions: Tensor
    stages: Mapping[str, Tensor]
    full: Tensor
    empty: Tensor


class CoalitionValues:
    """Computes the value v of coalitions of taps, for a batch of pooled features."""

    def __init__(self, network: MultiStream, pooled: Pooled, *, baseline: Baseline, scale: Scale) -> None:
        self.network, self.pooled, self.baseline, self.scale = network, pooled, baseline, scale
        self.taps = [(key, stage) for key, branch in network.branches.items() for stage in branch.taps]
        self.vectors: dict[tuple[str, tuple[bool, ...]], Tensor] = {}

    def value(self, present: Mapping[str, tuple[bool, ...]]) -> Tensor:
        """Returns v (B, K) float64 of a coalition, given which taps of each stream are present."""
        vectors = {key: self._vector(key, taps) for key, taps in present.items()}
        if self.baseline != "drop":
            return self._scaled(self.network.fusion(vectors).logits)
        kept = frozenset(key for key, taps in present.items() if any(taps))
        if kept:
            return self._scaled(self.network.fusion(vectors, kept).logits)
        prior = self.network.prior.double().expand(len(next(iter(vectors.values()))), -1)
        return prior if self.scale == "probability" else prior.clamp_min(1e-12).log()

    def of_streams(self, rows: Tensor) -> Tensor:
        """Returns v (M, B, K) of coalitions of streams (M, S)."""
        branches = self.network.branches
        return torch.stack(
            [
                self.value({k: (bool(on),) * len(branches[k].taps) for k, on in zip(branches, row, strict=True)})
                for row in rows
            ]
        )

    def of_taps(self, rows: Tensor) -> Tensor:
        """Returns v (M, B, K) of coalitions of taps (M, T), numbered stream by stream."""
        values = []
        for row in rows.tolist():
            present: dict[str, tuple[bool, ...]] = {}
            for (key, _), on in zip(self.taps, row, strict=True):
                present[key] = (*present.get(key, ()), on)
            values.append(self.value(present))
        return torch.stack(values)

    def _vector(self, key: str, taps: tuple[bool, ...]) -> Tensor:
        """Returns a branch's vector with the absent taps replaced; each combination is computed once."""
        if (key, taps) not in self.vectors:
            branch = self.network.branches[key]
            stages = zip(branch.taps, taps, strict=True)
            features = {s: self.pooled[key][s] if on else self._absent(branch, key, s) for s, on in stages}
            self.vectors[key, taps] = branch(features)
        return self.vectors[key, taps]

    def _absent(self, branch: Branch, key: str, stage: str) -> Tensor:
        features = self.pooled[key][stage]
        zero = self.baseline == "zero"
        return torch.zeros_like(features) if zero else branch.taps[stage].baseline.expand_as(features)

    def _scaled(self, logits: Tensor) -> Tensor:
        return logits.double() if self.scale == "logit" else self.network.probabilities(logits)


@torch.no_grad()
def shapley_values(
    network: MultiStream,
    pooled: Pooled,
    *,
    baseline: Baseline = "mean",
    scale: Scale = "logit",
    stages: bool = True,
) -> ShapleyValues:
    """Computes exact Shapley values of the streams, and with `stages` Owen values of their taps, for all classes.

    The fusion runs 2^S times, and 2^(S-1) x 2^T times for the T taps of each stream; the streams do not run again.
    """
    stages = stages and baseline != "drop"  # fusions can run without a stream; temporals cannot skip a step
    check_choice("baseline", baseline, get_args(Baseline))
    keys = tuple(network.branches)
    with evaluating(network):
        values = CoalitionValues(network, pooled, baseline=baseline, scale=scale)
        table = values.of_streams(coalitions(len(keys)))
        sizes = [len(branch.taps) for branch in network.branches.values()]
        by_tap = owen(values.of_taps, sizes).split(sizes) if stages else ()
    return ShapleyValues(
        keys=keys,
        baseline=baseline,
        scale=scale,
        streams=shapley(table).movedim(0, -1),
        interactions=interactions(table).movedim((0, 1), (-2, -1)),
        stages={key: part.movedim(0, -1) for key, part in zip(keys, by_tap, strict=False)},
        full=table[-1],
        empty=table[0],
    )
