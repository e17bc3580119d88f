"""Pieces of a stack: one stage's projections, or one token's columns of the classifier, of all networks of a grid.

Here is told what networks must have in common to be stacked, where their parameters lie, and how they come back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from multistream.ablation.stacking import Stacked
from multistream.network.network import MultiStream
from multistream.parts.fusions import Early, Late, Solo
from multistream.parts.taps import GlobalAverage, LastStage, VectorTap
from multistream.parts.temporals import Average, Concat

Grid = Sequence[Sequence[MultiStream]]
"""networks[g][v]: seed g, variant v."""

Name = tuple[str, ...]
Stages = Mapping[str, tuple[str, ...]]


def kind_of(network: MultiStream) -> str | None:
    """What networks of one stack have in common; None where a network holds a part that is not known to be linear."""
    for branch in network.branches.values():
        if not all(type(tap) in (GlobalAverage, LastStage, VectorTap) for tap in branch.taps.values()):
            return None
        if branch.temporal is not None and type(branch.temporal) not in (Concat, Average):
            return None
    fusion = network.fusion
    heads = list(fusion.heads.values())
    if type(fusion) not in (Early, Late, Solo) or not all(type(h) is nn.Linear and h.bias is not None for h in heads):
        return None
    if isinstance(fusion, Early):
        return f"early {fusion.dropout.p} {fusion.classifier.weight.requires_grad}"
    return f"{type(fusion).__name__} {[h.weight.requires_grad for h in heads] if isinstance(fusion, Solo) else ''}"


@dataclass
class Piece:
    """One stage of one stream: which variants keep it, at which place among their tokens, and its projections."""

    key: str
    stage: str
    mean: Tensor
    scale: Tensor
    held: Tensor
    """(V_p,) int64, ascending."""
    place: Tensor
    """(V_p,) the first entry of the token in the stream's vector, which dropout's masks are cut at."""
    share: Tensor
    """(V_p,) what the token counts in the vector: 1, or 1 / T where the temporal averages."""
    weight: Stacked | None
    """(G, V_p, W, P); None where the token is the pooled feature itself."""
    bias: Stacked | None
    """(G, V_p, W)"""


@dataclass
class Slot:
    """A part of the classifier: the columns that read one token (concat) or one stream's vector (average)."""

    output: str
    weight: Stacked
    """(G, V_s, K, W)"""

    @property
    def held(self) -> Tensor:
        """(V_s,) the variants that have it."""
        return self.weight.held

    @property
    def width(self) -> int:
        """W"""
        return self.weight.shape[1]


@torch.no_grad()
def write_back(grid: Grid, best: Mapping[Name, tuple[Stacked, Tensor]], names: Sequence[Stages]) -> None:
    """Copies each row's numbers (G, V_i, n) into the network that they belong to."""
    for name, (stacked, flat) in best.items():
        values = stacked.unfilled(flat)
        for position, v in enumerate(stacked.held.tolist()):
            for g, networks in enumerate(grid):
                _target(networks[v], name, names[v]).copy_(values[g, position])


def _target(network: MultiStream, name: Name, stages: Stages) -> Tensor:
    """The place in a network that a stacked parameter's row belongs to."""
    kind, *rest = name
    if kind == "tap":
        tap = network.branches[rest[0]].taps[rest[1]]
        assert isinstance(tap, GlobalAverage)
        return tap.projection.weight if rest[2] == "weight" else tap.projection.bias
    if kind == "bias":
        return _classifier(network, rest[0]).bias
    return _columns(network, rest[0], rest[1], stages)


def places_of(networks: Sequence[MultiStream]) -> list[tuple[str, str]]:
    """Every (key, stage) that some variant keeps, streams in their order and stages as deep as they lie."""
    found: dict[str, dict[str, None]] = {}
    for network in sorted(networks, key=lambda n: -len(n.branches)):
        for key, branch in network.branches.items():
            found.setdefault(key, {}).update(dict.fromkeys(branch.stream.stages or branch.taps))
    taken = {(key, stage) for n in networks for key, b in n.branches.items() for stage in b.taps}
    return [(key, stage) for key, stages in found.items() for stage in stages if (key, stage) in taken]


def piece_of(grid: Grid, key: str, stage: str) -> Piece:
    """The projections of one stage, of all variants that keep it."""
    held = [v for v, n in enumerate(grid[0]) if key in n.branches and stage in n.branches[key].taps]
    branches = [grid[0][v].branches[key] for v in held]
    tap = branches[0].taps[stage]
    order = [list(b.taps).index(stage) for b in branches]
    averages = isinstance(branches[0].temporal, Average)
    device = tap.mean.device
    places = [0 if averages else position * tap.width for position in order]
    shares = [1 / len(b.taps) if averages else 1.0 for b in branches]
    indices = torch.tensor(held, device=device)
    weight = bias = None
    if isinstance(tap, GlobalAverage):
        weight = stack_parameter(grid, indices, lambda n: _projection(n, key, stage).weight)
        bias = stack_parameter(grid, indices, lambda n: _projection(n, key, stage).bias)
    at, counts = torch.tensor(places, device=device), torch.tensor(shares, device=device)
    return Piece(key, stage, tap.mean, tap.scale, indices, at, counts, weight, bias)


def slot_of(grid: Grid, piece: Piece, *, whole: bool) -> Slot:
    """The classifier's columns for a piece, or for all of its stream."""
    output = piece.key if isinstance(grid[0][0].fusion, Late) else ""
    held = piece.held
    if whole:
        device = held.device
        held = torch.tensor([v for v, n in enumerate(grid[0]) if piece.key in n.branches], device=device)
    stage = "" if whole else piece.stage
    names = {id(n): {k: tuple(b.taps) for k, b in n.branches.items()} for row in grid for n in row}
    return Slot(output, stack_parameter(grid, held, lambda n: _columns(n, piece.key, stage, names[id(n)])))


def outputs_of(grid: Grid) -> dict[str, Tensor]:
    """{output: the variants that have it}."""
    device = grid[0][0].prior.device
    if not isinstance(grid[0][0].fusion, Late):
        return {"": torch.arange(len(grid[0]), device=device)}
    keys = dict.fromkeys(key for network in grid[0] for key in network.branches)
    return {k: torch.tensor([v for v, n in enumerate(grid[0]) if k in n.branches], device=device) for k in keys}


def stack_parameter(grid: Grid, held: Tensor, parameter: Callable[[MultiStream], Tensor]) -> Stacked:
    """One parameter of all seeds and these variants."""
    rows = [[parameter(networks[v]) for v in held.tolist()] for networks in grid]
    return Stacked.of(rows, held, trains=rows[0][0].requires_grad)


def bias_of(output: str) -> Callable[[MultiStream], Tensor]:
    """What gives a network's bias of this output."""
    return lambda network: _classifier(network, output).bias


def _projection(network: MultiStream, key: str, stage: str) -> nn.Linear:
    tap = network.branches[key].taps[stage]
    assert isinstance(tap, GlobalAverage)
    return tap.projection


def _classifier(network: MultiStream, output: str) -> nn.Linear:
    """The linear layer that gives an output's logits."""
    fusion = network.fusion
    found = fusion.classifier if isinstance(fusion, Early) else fusion.heads[output or next(iter(fusion.heads))]
    assert isinstance(found, nn.Linear)
    return found


def _columns(network: MultiStream, key: str, stage: str, stages: Stages) -> Tensor:
    """The classifier's columns (K, W) that read a stage's token, or all of a stream's vector."""
    fusion = network.fusion
    start = 0
    if isinstance(fusion, Early):
        for other, width in fusion.widths.items():
            if other == key:
                break
            start += width
    width = network.branches[key].out_width
    if stage:
        width = network.branches[key].taps[stage].width
        start += width * stages[key].index(stage)
    weight = _classifier(network, key if isinstance(fusion, Late) else "").weight
    return weight[:, start : start + width]
