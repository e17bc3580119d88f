"""Rows of one kind trained as a stack: one graph, one optimizer, and still every row as if it were alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from multistream.ablation.pieces import Grid, Name, write_back
from multistream.ablation.pool import Measured, Pool, Step
from multistream.ablation.products import LINE
from multistream.ablation.stack import Stack, renumbered
from multistream.ablation.stacking import Stacked
from multistream.parts.fusions import Late
from multistream.recipe import TrainingSettings


class StackedRows:
    """Rows whose networks `kind_of` finds to be of one linear kind."""

    def __init__(self, grid: Grid, pool: Pool, settings: TrainingSettings) -> None:
        self.grid, self.pool, self.settings = grid, pool, settings
        self.stack = Stack(grid)
        self.late = isinstance(grid[0][0].fusion, Late)
        self.active = list(range(len(grid[0])))
        """The number in the grid of each variant that still trains."""
        self.features = {
            (p.key, p.stage): (pool.features[p.key][p.stage] - p.mean) * p.scale for p in self.stack.pieces
        }
        self.best = {name: (each, each.leaf.detach().clone()) for name, each in self.stack.tensors().items()}
        self.optimizer = self._optimizer()

    def backward(self, step: Step) -> Tensor:
        """Adds the gradients of all rows' losses: their sum's gradient is each row's own."""
        masks = self.stack.masks(step) if self.stack.dropout else None
        logits = self.stack.logits(self._gathered(step.places_GB), masks)
        losses = torch.zeros(len(self.grid), self.stack.variants, device=self.pool.labels.device)
        for output, each in logits.items():
            losses = losses.index_add(1, self.stack.outputs[output], self._loss(each, step))
        if losses.requires_grad:
            (losses.sum() / step.of).backward()
        return losses.detach()

    def update(self, factor: float) -> None:
        """One step of the optimizer over all rows; a norm is clipped row by row."""
        if self.settings.clip_norm > 0:
            self._clip()
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * factor
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def measure(self, indices: NDArray[np.int64]) -> Measured:
        """Loss and accuracy of every row, float64 on the CPU."""
        shape = len(self.grid), self.stack.variants
        loss = torch.zeros(*shape, dtype=torch.float64)
        hits, seen = torch.zeros(*shape, dtype=torch.float64), 0
        for places in self.pool.plain(indices):
            filled = functional.pad(places, (0, -len(places) % LINE)).expand(len(self.grid), -1)
            logits_GVKB = self._fused(self.stack.logits(self._gathered(filled), None))[..., : len(places)]
            labels = self.pool.labels[places]
            spread = labels.expand(*shape, -1)
            each = functional.cross_entropy(logits_GVKB.double().flatten(0, 1), spread.flatten(0, 1), reduction="none")
            loss += each.view(spread.shape).sum(2).cpu()
            hits += (logits_GVKB.argmax(2) == labels).sum(2).cpu()
            seen += len(places)
        return Measured(loss / max(1, seen), hits / max(1, seen))

    @torch.no_grad()
    def remember(self, rows_GV: Tensor) -> None:
        """Keeps the present weights of these rows, counted among those that still train."""
        rows_GV = rows_GV.to(self.pool.labels.device)
        number = torch.tensor(self.active, device=rows_GV.device)
        for name, each in self.stack.tensors().items():
            whole, best = self.best[name]
            inside = torch.searchsorted(whole.held, number[each.held])
            chosen = rows_GV[:, each.held].unsqueeze(2)
            best[:, inside] = torch.where(chosen, each.leaf.detach(), best[:, inside])

    def drop(self, variants: Sequence[int]) -> None:
        """Goes on without these variants (numbers of the grid), which costs nothing more."""
        stay = [place for place, v in enumerate(self.active) if v not in variants]
        cut: dict[Name, Stacked] = {}
        state: dict[Name, dict[str, Any]] = {}
        for name, each in self.stack.tensors().items():
            rows = torch.isin(each.held, torch.tensor(stay, device=each.held.device))
            if bool(rows.any()):
                leaf = nn.Parameter(each.leaf.detach()[:, rows].contiguous(), requires_grad=each.leaf.requires_grad)
                cut[name] = Stacked(leaf, each.shape, renumbered(each.held[rows], stay))
                state[name] = _cut_state(self.optimizer.state.get(each.leaf, {}), each.leaf, rows)
        self.stack.select(stay, cut)
        self.active = [self.active[place] for place in stay]
        self.optimizer = self._optimizer()
        self.optimizer.state.update({cut[name].leaf: kept for name, kept in state.items() if kept})

    def finish(self) -> None:
        """Puts the best weights into the networks."""
        write_back(self.grid, self.best, self.stack.names)

    def _gathered(self, places_GB: Tensor) -> dict[tuple[str, str], Tensor]:
        return {(p.key, p.stage): self.features[p.key, p.stage][places_GB] for p in self.stack.pieces}

    def _loss(self, logits_GVKB: Tensor, step: Step) -> Tensor:
        """Each row's criterion, (G, V): the mean over the images that count, weighted as the classes are."""
        criterion, labels_GB = self.pool.criterion, self.pool.labels[step.places_GB]
        spread = labels_GB.unsqueeze(1).expand(-1, logits_GVKB.shape[1], -1)
        each = functional.cross_entropy(
            logits_GVKB.flatten(0, 1),
            spread.flatten(0, 1),
            weight=criterion.weights,
            label_smoothing=criterion.label_smoothing,
            reduction="none",
        ).view(spread.shape)
        weights_GB = step.counts_GB.to(each.dtype)
        weight_GB = weights_GB if criterion.weights is None else weights_GB * criterion.weights[labels_GB]
        total_G = weight_GB.sum(1).clamp_min(torch.finfo(each.dtype).tiny)
        return (each * weights_GB.unsqueeze(1)).sum(2) / total_G.unsqueeze(1)

    def _fused(self, logits: Mapping[str, Tensor]) -> Tensor:
        """The fused logits of every row, (G, V, K, B): for late the log of the mean of the streams' softmaxes."""
        if not self.late:
            return logits[""]
        first = next(iter(logits.values()))
        total = first.new_zeros(first.shape[0], self.stack.variants, *first.shape[2:])
        count = first.new_zeros(self.stack.variants)
        for output, each in logits.items():
            held = self.stack.outputs[output]
            total = total.index_add(1, held, each.softmax(2))
            count = count.index_add(0, held, torch.ones_like(held, dtype=count.dtype))
        return (total / count.view(-1, 1, 1)).log()

    def _clip(self) -> None:
        """Scales each row's gradients to its own norm, as torch's clip_grad_norm_ would alone (checks B3)."""
        squares = torch.zeros(len(self.grid), self.stack.variants, device=self.pool.labels.device)
        tensors = [(t.held, t.leaf.grad) for t in self.stack.tensors().values() if t.leaf.grad is not None]
        for held, gradient in tensors:
            squares = squares.index_add(1, held, gradient.square().sum(2))
        factor = (self.settings.clip_norm / (squares.sqrt() + 1e-6)).clamp_max(1.0)
        for held, gradient in tensors:
            gradient.mul_(factor[:, held].unsqueeze(2))

    def _optimizer(self) -> torch.optim.Optimizer:
        settings, trained = self.settings, [t for t in self.stack.tensors().values() if t.leaf.requires_grad]
        decayed = [t.leaf for t in trained if len(t.shape) > 1]  # biases are not, as in training.optimisers
        plain = [t.leaf for t in trained if len(t.shape) == 1]
        groups: list[dict[str, Any]] = [
            {"params": each, "weight_decay": decay}
            for each, decay in ((decayed, settings.weight_decay), (plain, 0.0))
            if each
        ]
        if not groups:
            groups = [{"params": [nn.Parameter(torch.zeros(1))]}]  # nothing is left to train
        fused = self.pool.labels.device.type in ("cpu", "cuda")
        if settings.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum, fused=fused)
        kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
        return kind(groups, lr=settings.learning_rate, fused=fused)


def _cut_state(state: Mapping[str, Any], parameter: Tensor, rows: Tensor) -> dict[str, Any]:
    """An optimizer's memory of a parameter, for these variants alone; step counters stay."""
    return {
        name: value[:, rows].contiguous() if isinstance(value, Tensor) and value.shape == parameter.shape else value
        for name, value in state.items()
    }
