"""The stack: linear networks of one kind as one, whose parameters have leading dimensions (G seeds, V variants).

A stage is projected for those variants alone that keep it: weights of masked stages do not exist, so they stay 0.
Every product is a batch of products, one a row, each of the same shape whoever stands beside it; the optimisers work
number by number. So a row's weights are the same bits, alone or among others (checks B1, B2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from multistream.ablation.pool import Step
from multistream.ablation.products import product, shared_product
from multistream.ablation.stacking import Stacked
from multistream.network import MultiStream
from multistream.parts.dropout import kept
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
    """(V_p,) the first entry of the token in the stream's vector."""
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


class Stack(nn.Module):
    """The networks of a grid as one: `logits` gives {output: (G, V, B, K)}; outputs are late's streams, else ""."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        first = grid[0]
        self.variants = len(first)
        self.dropout = first[0].fusion.dropout.p if isinstance(first[0].fusion, Early) else 0.0
        self.names = [{key: tuple(branch.taps) for key, branch in network.branches.items()} for network in first]
        self.outputs = _outputs(grid)
        self.pieces = [_piece(grid, key, stage) for key, stage in _places(first)]
        self.slots: dict[tuple[str, str], Slot] = {}
        for piece in self.pieces:
            averages = isinstance(first[int(piece.held[0])].branches[piece.key].temporal, Average)
            name = (piece.key, "" if averages else piece.stage)
            if name not in self.slots:
                self.slots[name] = _slot(grid, piece, whole=averages)
        self.biases = {o: _stacked(grid, held, _bias_of(o)) for o, held in self.outputs.items()}

    def tensors(self) -> dict[Name, Stacked]:
        """Every stacked parameter by name."""
        found: dict[Name, Stacked] = {}
        for piece in self.pieces:
            if piece.weight is not None and piece.bias is not None:
                found["tap", piece.key, piece.stage, "weight"] = piece.weight
                found["tap", piece.key, piece.stage, "bias"] = piece.bias
        found |= {("slot", *name): slot.weight for name, slot in self.slots.items()}
        return found | {("bias", output): bias for output, bias in self.biases.items()}

    def logits(self, x: Mapping[tuple[str, str], Tensor], masks: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """Standardised features {(key, stage): (G, B, P)} -> {output: (G, V_o, B, K)}.

        `masks` {key: (G, E, B)} tell what dropout keeps; without, a stage's projection and classifier are multiplied
        with each other before they meet the images: K columns an image instead of W.
        """
        batch = next(iter(x.values())).shape[1]
        totals = {o: bias.value.unsqueeze(2).expand(-1, -1, batch, -1) for o, bias in self.biases.items()}
        vectors: dict[tuple[str, str], Tensor] = {}
        for piece in self.pieces:
            name = self._slot_name(piece)
            slot = self.slots[name]
            if masks is None:
                part = self._direct(piece, slot, x[piece.key, piece.stage])
                totals[slot.output] = self._added(totals[slot.output], slot.output, piece.held, part)
            else:
                tokens = self._tokens(piece, x[piece.key, piece.stage])
                if name[1]:
                    vectors[name] = tokens
                else:
                    before = vectors.get(name, tokens.new_zeros(len(tokens), len(slot.held), *tokens.shape[2:]))
                    inside = torch.searchsorted(slot.held, piece.held)
                    vectors[name] = before.index_add(1, inside, tokens * _column(piece.share))
        for name, vector in vectors.items():
            slot = self.slots[name]
            assert masks is not None
            kept_vector = vector * self._mask(name, slot, masks[name[0]]) / (1 - self.dropout)
            part = product(kept_vector, slot.weight.value.mT)
            totals[slot.output] = self._added(totals[slot.output], slot.output, slot.held, part)
        return totals

    def masks(self, step: Step) -> dict[str, Tensor]:
        """What dropout keeps, {key: (G, E, B)}: what each row would draw alone, drawn once for all of a seed."""
        widths: dict[str, int] = {}
        for piece in self.pieces:
            name = self._slot_name(piece)
            end = int(piece.place.max()) + self.slots[name].width
            widths[piece.key] = max(widths.get(piece.key, 0), end)
        counts, batch = step.counts_GB.sum(1).tolist(), step.counts_GB.shape[1]
        found = {}
        for key, width in widths.items():
            drawn = [
                functional.pad(kept(width, n, p=self.dropout, seed=seed, step=step.number, part=key), (0, batch - n))
                for seed, n in zip(step.seeds, counts, strict=True)
            ]
            found[key] = torch.stack(drawn).to(step.counts_GB.device)
        return found

    def select(self, variants: Sequence[int], replaced: Mapping[Name, Stacked]) -> None:
        """Keeps these variants alone, numbered anew; `replaced` holds the parameters cut to them, where any are."""
        self.variants = len(variants)
        for piece in self.pieces:
            stay = torch.isin(piece.held, torch.tensor(variants, device=piece.held.device))
            piece.place, piece.share = piece.place[stay], piece.share[stay]
            piece.held = renumbered(piece.held[stay], variants)
            piece.weight = replaced.get(("tap", piece.key, piece.stage, "weight"))
            piece.bias = replaced.get(("tap", piece.key, piece.stage, "bias"))
        self.pieces = [piece for piece in self.pieces if len(piece.held)]
        self.slots = {
            name: Slot(slot.output, replaced["slot", *name])
            for name, slot in self.slots.items()
            if ("slot", *name) in replaced
        }
        self.biases = {o: replaced["bias", o] for o in self.biases if ("bias", o) in replaced}
        self.outputs = {o: bias.held for o, bias in self.biases.items()}

    def _slot_name(self, piece: Piece) -> tuple[str, str]:
        return (piece.key, piece.stage) if (piece.key, piece.stage) in self.slots else (piece.key, "")

    def _tokens(self, piece: Piece, x_GBP: Tensor) -> Tensor:
        """(G, B, P) -> (G, V_p, B, W)."""
        if piece.weight is None or piece.bias is None:
            return x_GBP.unsqueeze(1).expand(-1, len(piece.held), -1, -1)
        return shared_product(x_GBP, piece.weight.value) + piece.bias.value.unsqueeze(2)

    def _direct(self, piece: Piece, slot: Slot, x_GBP: Tensor) -> Tensor:
        """(G, B, P) -> (G, V_p, B, K): what the token adds to the logits."""
        columns = slot.weight.value
        if len(slot.held) != len(piece.held):
            columns = columns[:, torch.searchsorted(slot.held, piece.held)]
        if bool((piece.share != 1).any()):
            columns = columns * _column(piece.share)
        if piece.weight is None or piece.bias is None:
            return shared_product(x_GBP, columns)
        offset = (columns * piece.bias.value.unsqueeze(2)).sum(3)
        return shared_product(x_GBP, product(columns, piece.weight.value)) + offset.unsqueeze(2)

    def _added(self, total: Tensor, output: str, held: Tensor, part: Tensor) -> Tensor:
        own = self.outputs[output]
        if len(own) == len(held):
            return total + part
        return total.index_add(1, torch.searchsorted(own, held), part)

    def _mask(self, name: tuple[str, str], slot: Slot, mask_GEB: Tensor) -> Tensor:
        """What is kept of each variant's token or vector, (G, V_s, B, W)."""
        places = next(p.place for p in self.pieces if self._slot_name(p) == name)
        if not name[1]:
            places = torch.zeros_like(slot.held)
        entries = places[:, None] + torch.arange(slot.width, device=places.device)
        return mask_GEB[:, entries].mT


def _column(values_V: Tensor) -> Tensor:
    """One number a variant, shaped to multiply (G, V, ., .)."""
    return values_V.view(1, -1, 1, 1)


def renumbered(held: Tensor, variants: Sequence[int]) -> Tensor:
    """The places of these variants among those that stay, both ascending."""
    return torch.searchsorted(torch.tensor(variants, device=held.device), held)


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


def _places(networks: Sequence[MultiStream]) -> list[tuple[str, str]]:
    """Every (key, stage) that some variant keeps, streams in their order and stages as deep as they lie."""
    found: dict[str, dict[str, None]] = {}
    for network in sorted(networks, key=lambda n: -len(n.branches)):
        for key, branch in network.branches.items():
            found.setdefault(key, {}).update(dict.fromkeys(branch.stream.stages or branch.taps))
    taken = {(key, stage) for n in networks for key, b in n.branches.items() for stage in b.taps}
    return [(key, stage) for key, stages in found.items() for stage in stages if (key, stage) in taken]


def _piece(grid: Grid, key: str, stage: str) -> Piece:
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
        weight = _stacked(grid, indices, lambda n: _projection(n, key, stage).weight)
        bias = _stacked(grid, indices, lambda n: _projection(n, key, stage).bias)
    at, counts = torch.tensor(places, device=device), torch.tensor(shares, device=device)
    return Piece(key, stage, tap.mean, tap.scale, indices, at, counts, weight, bias)


def _slot(grid: Grid, piece: Piece, *, whole: bool) -> Slot:
    """The classifier's columns for a piece, or for all of its stream."""
    output = piece.key if isinstance(grid[0][0].fusion, Late) else ""
    held = piece.held
    if whole:
        device = held.device
        held = torch.tensor([v for v, n in enumerate(grid[0]) if piece.key in n.branches], device=device)
    stage = "" if whole else piece.stage
    names = {id(n): {k: tuple(b.taps) for k, b in n.branches.items()} for row in grid for n in row}
    return Slot(output, _stacked(grid, held, lambda n: _columns(n, piece.key, stage, names[id(n)])))


def _outputs(grid: Grid) -> dict[str, Tensor]:
    """{output: the variants that have it}."""
    device = grid[0][0].prior.device
    if not isinstance(grid[0][0].fusion, Late):
        return {"": torch.arange(len(grid[0]), device=device)}
    keys = dict.fromkeys(key for network in grid[0] for key in network.branches)
    return {k: torch.tensor([v for v, n in enumerate(grid[0]) if k in n.branches], device=device) for k in keys}


def _stacked(grid: Grid, held: Tensor, parameter: Callable[[MultiStream], Tensor]) -> Stacked:
    """One parameter of all seeds and these variants."""
    rows = [[parameter(networks[v]) for v in held.tolist()] for networks in grid]
    return Stacked.of(rows, held, trains=rows[0][0].requires_grad)


def _bias_of(output: str) -> Callable[[MultiStream], Tensor]:
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
