"""The stack: linear networks of one kind as one, whose parameters have leading dimensions (G seeds, V variants).

A stage is projected for those variants alone that keep it: weights of masked stages do not exist, so they stay 0.
Every product is a batch of products, one a row, each of the same shape whoever stands beside it; the optimisers work
number by number. So a row's weights are the same bits, alone or among others (checks B1, B2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from multistream.ablation.pieces import (
    Grid,
    Name,
    Piece,
    Slot,
    bias_of,
    outputs_of,
    piece_of,
    places_of,
    slot_of,
    stack_parameter,
)
from multistream.ablation.pool import Step
from multistream.ablation.products import direct_product, dropped_product, product, shared_product
from multistream.ablation.stacking import Stacked
from multistream.parts.dropout import kept
from multistream.parts.fusions import Early
from multistream.parts.temporals import Average


class Stack(nn.Module):
    """The networks of a grid as one: `logits` gives {output: (G, V, K, B)}; outputs are late's streams, else ""."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        first = grid[0]
        self.variants = len(first)
        self.dropout = first[0].fusion.dropout.p if isinstance(first[0].fusion, Early) else 0.0
        self.names = [{key: tuple(branch.taps) for key, branch in network.branches.items()} for network in first]
        self.outputs = outputs_of(grid)
        self.pieces = [piece_of(grid, key, stage) for key, stage in places_of(first)]
        self.slots: dict[tuple[str, str], Slot] = {}
        for piece in self.pieces:
            averages = isinstance(first[int(piece.held[0])].branches[piece.key].temporal, Average)
            name = (piece.key, "" if averages else piece.stage)
            if name not in self.slots:
                self.slots[name] = slot_of(grid, piece, whole=averages)
        self.biases = {o: stack_parameter(grid, held, bias_of(o)) for o, held in self.outputs.items()}

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
        """Standardised features {(key, stage): (G, B, P)} -> {output: (G, V_o, K, B)}.

        `masks` {key: (G, E, B)} are what dropout multiplies with; without, a stage's projection and classifier are
        multiplied with each other before they meet the images: K columns an image instead of W.
        """
        batch = next(iter(x.values())).shape[1]
        totals = {o: bias.value.unsqueeze(3).repeat(1, 1, 1, batch) for o, bias in self.biases.items()}
        averaged: dict[tuple[str, str], Tensor] = {}
        for piece in self.pieces:
            name = self._slot_name(piece)
            output, features = self.slots[name].output, x[piece.key, piece.stage]
            if masks is not None and not name[1]:
                averaged[name] = self._averaged(averaged.get(name), piece, features)
                continue
            mask = None if masks is None else masks[piece.key]
            part = self._direct(piece, features) if mask is None else self._dropped(piece, features, mask)
            totals[output] = self._added(totals[output], output, piece.held, part)
        for name, vector in averaged.items():
            assert masks is not None
            slot = self.slots[name]
            part = product(slot.weight.value, vector * masks[name[0]].unsqueeze(1))
            totals[slot.output] = self._added(totals[slot.output], slot.output, slot.held, part)
        return totals

    def masks(self, step: Step) -> dict[str, Tensor]:
        """What dropout multiplies with, {key: (G, E, B)}: what each row would draw alone, drawn once for a seed."""
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
            found[key] = torch.stack(drawn).to(step.counts_GB.device) / (1 - self.dropout)
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

    def _averaged(self, before: Tensor | None, piece: Piece, x_GBP: Tensor) -> Tensor:
        """Adds a piece's share to its stream's vectors, (G, V_s, W, B)."""
        slot = self.slots[self._slot_name(piece)]
        if piece.weight is None or piece.bias is None:
            tokens = x_GBP.mT.unsqueeze(1).expand(-1, len(piece.held), -1, -1)
        else:
            tokens = shared_product(piece.weight.value, x_GBP) + piece.bias.value.unsqueeze(3)
        if before is None:
            before = tokens.new_zeros(len(tokens), len(slot.held), *tokens.shape[2:])
        return before.index_add(1, torch.searchsorted(slot.held, piece.held), tokens * _column(piece.share))

    def _dropped(self, piece: Piece, x_GBP: Tensor, mask_GEB: Tensor) -> Tensor:
        """(G, B, P) -> (G, V_p, K, B): what the token, after dropout, adds to the logits."""
        columns = self.slots[piece.key, piece.stage].weight.value
        if piece.weight is not None and piece.bias is not None:
            weight, bias = piece.weight.value, piece.bias.value
            return dropped_product(columns, weight, bias, x_GBP, mask_GEB, piece.place.tolist())
        if bool((piece.place == piece.place[0]).all()):  # one mask for all variants: the images are dropped once
            start = int(piece.place[0])
            return shared_product(columns, x_GBP * mask_GEB[:, start : start + x_GBP.shape[2]].mT)
        entries = piece.place[:, None] + torch.arange(x_GBP.shape[2], device=x_GBP.device)
        return product(columns, x_GBP.mT.unsqueeze(1) * mask_GEB[:, entries])

    def _direct(self, piece: Piece, x_GBP: Tensor) -> Tensor:
        """(G, B, P) -> (G, V_p, K, B): what the token adds to the logits."""
        slot = self.slots[self._slot_name(piece)]
        columns = slot.weight.value
        if len(slot.held) != len(piece.held):
            columns = columns[:, torch.searchsorted(slot.held, piece.held)]
        if bool((piece.share != 1).any()):
            columns = columns * _column(piece.share)
        if piece.weight is None or piece.bias is None:
            return shared_product(columns, x_GBP)
        return direct_product(columns, piece.weight.value, piece.bias.value, x_GBP)

    def _added(self, total: Tensor, output: str, held: Tensor, part: Tensor) -> Tensor:
        own = self.outputs[output]
        if len(own) == len(held):
            return total + part
        return total.index_add_(1, torch.searchsorted(own, held), part)


def _column(values_V: Tensor) -> Tensor:
    """One number a variant, shaped to multiply (G, V, ., .)."""
    return values_V.view(1, -1, 1, 1)


def renumbered(held: Tensor, variants: Sequence[int]) -> Tensor:
    """The places of these variants among those that stay, both ascending."""
    return torch.searchsorted(torch.tensor(variants, device=held.device), held)
