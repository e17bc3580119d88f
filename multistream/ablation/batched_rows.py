"""Rows with linear components trained as one batch: every parameter has leading dimensions G (seeds) and V (variants).

A stage is projected only for the variants that keep it. Rows share no weights, so the gradient of the sum of their
losses is the gradient of each row. A row equals the row trained alone up to float32 rounding, because the order of
summation differs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from multistream.ablation.row_data import Grid, GridStep, RowData, RowMetrics, RowParameter, StageRows
from multistream.interfaces import Loss, Tap
from multistream.network.branch import Branch
from multistream.network.network import MultiStream
from multistream.nn.modules import trains
from multistream.parts.dropout import kept
from multistream.parts.fusions import Early, Late, Solo
from multistream.parts.losses import BinaryCrossEntropy, CrossEntropy
from multistream.parts.temporals import Average, Concat
from multistream.recipe import TrainingSettings
from multistream.training.optimizers import optimizer_of, set_rate

BATCHED_LOSSES = (CrossEntropy, BinaryCrossEntropy)
"""Losses that can be computed for all rows at once; without arguments they have no class weights and no smoothing."""


def batch_kind(network: MultiStream) -> str | None:
    """Returns a key that is equal for networks that can train in one batch; None if a component may not be linear."""
    fusion = network.fusion
    heads_fit = all(type(head) is nn.Linear and head.bias is not None for head in fusion.heads.values())
    if type(fusion) not in (Early, Late, Solo) or not heads_fit or not all(map(_fits, network.branches.values())):
        return None
    return f"{type(fusion).__name__} {trains(fusion)} {fusion.dropout.p if isinstance(fusion, Early) else 0}"


def _fits(branch: Branch) -> bool:
    """Returns whether a branch's taps are linear layers (or the identity), and its temporal is Concat or Average."""
    taps_fit = all(isinstance(tap.affine_layer, nn.Linear | nn.Identity) for tap in branch.taps.values())
    return taps_fit and (branch.temporal is None or type(branch.temporal) in (Concat, Average))


def image_losses(logits_NKB: Tensor, targets: Tensor, *, criterion: Loss) -> Tensor:
    """Computes a loss of BATCHED_LOSSES for each image, (N, B), without the mean; targets are (N, B) or (N, K, B)."""
    if criterion.label_sets:
        return functional.binary_cross_entropy_with_logits(logits_NKB, targets, reduction="none").mean(1)
    weights, smoothing = criterion.weights, criterion.label_smoothing
    return functional.cross_entropy(logits_NKB, targets, weight=weights, label_smoothing=smoothing, reduction="none")


class BatchedRows:
    """Rows whose networks have the same `batch_kind`, trained as one batch."""

    def __init__(self, grid: Grid, data: RowData, settings: TrainingSettings) -> None:
        self.grid, self.data, self.settings = grid, data, settings
        self.shape = len(grid), len(grid[0])
        self.plain = type(data.criterion)()
        fusion = grid[0][0].fusion
        self.dropout = fusion.dropout.p if isinstance(fusion, Early) else 0.0
        keys = list(dict.fromkeys(chain.from_iterable(network.branches for network in grid[0])))
        self.outputs = keys if isinstance(fusion, Late) else [""]
        self.biases = [self._bias(output) for output in self.outputs]
        self.stages = [stage for key in keys for stage in self._stages(key)]
        self.parameters = list(dict.fromkeys(chain(self.biases, *(stage.parameters for stage in self.stages))))
        self.present_VO = self._present()
        self.features = self._standardised()
        self.optimizer = self._make_optimizer()

    def backward(self, step: GridStep) -> Tensor:
        """Accumulates the gradients of all rows; returns their losses (G, V)."""
        losses = self._losses(self._logits(step.places_GB, self._masks(step)), step)
        if self.optimizer is not None:
            (losses.sum() / step.of).backward()
        return losses.detach()

    def update(self, factor: float) -> None:
        """Takes one optimizer step for all rows; gradient norms are clipped row by row."""
        if self.optimizer is None:
            return
        if self.settings.clip_norm > 0:
            self._clip()
        set_rate(self.optimizer, factor)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def measure(self, indices: NDArray[np.int64]) -> RowMetrics:
        """Measures loss and accuracy of every row, (G, V) float64 on the CPU."""
        loss, hits = torch.zeros(2, *self.shape, dtype=torch.float64)
        rows = self.data.rows(indices)
        for places in self.data.plain(indices):
            logits_GVKB = self._fused(self._logits(places.expand(self.shape[0], -1), {}))
            own = self.data.targets[places]
            own = own.mT.double() if own.ndim == 2 else own  # label sets need the layout of logits: (K, B)
            targets = own.expand(*self.shape, *own.shape).flatten(0, 1)
            by_image = image_losses(logits_GVKB.double().flatten(0, 1), targets, criterion=self.plain)
            loss += by_image.view(*self.shape, -1).sum(2).cpu()
            hits += self._right(logits_GVKB, places).sum(2).cpu()
        return RowMetrics(loss / max(1, len(rows)), hits / max(1, len(rows)))

    def remember(self, rows_GV: Tensor) -> None:
        """Keeps a copy of the current weights of these rows."""
        for parameter in self.parameters:
            parameter.remember(rows_GV)

    def stop(self, rows_GV: Tensor) -> None:
        """Does nothing: stopped rows stay in the batch until all rows have stopped."""

    def finish(self) -> None:
        """Copies the kept weights into the networks."""
        for parameter in self.parameters:
            parameter.write_back()

    def _present(self) -> Tensor:
        """Returns (V, O): 1 if a variant has an output, else 0."""
        present_VO = torch.zeros(self.shape[1], len(self.outputs), device=self.data.labels.device)
        for output, bias in enumerate(self.biases):
            present_VO[bias.variants, output] = 1
        return present_VO

    def _standardised(self) -> dict[tuple[str, str], Tensor]:
        """Standardises the pooled features of every tap of any variant, by stream and stage."""
        taps: dict[tuple[str, str], Tap] = {}
        for key, branch in chain.from_iterable(network.branches.items() for network in self.grid[0]):
            taps |= {(key, stage): tap for stage, tap in branch.taps.items()}
        return {(key, stage): tap.standardise(self.data.features[key][stage]) for (key, stage), tap in taps.items()}

    def _make_optimizer(self) -> Optimizer | None:
        """Makes one optimizer for all rows, with the groups of make_optimizer: biases have no weight decay."""
        trained = [parameter for parameter in self.parameters if parameter.value.requires_grad]
        if not trained:
            return None
        groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
        for parameter in trained:
            decay = 0.0 if parameter.is_bias else self.settings.weight_decay
            groups[self.settings.learning_rate, decay].append(parameter.value)
        return optimizer_of(groups, self.settings, self.data.labels.device)

    def _logits(self, places_GB: Tensor, masks: Mapping[str, Tensor]) -> Tensor:
        """Computes logits (G, V, O, K, B) of images (G, B); `masks` {key: (G, E, B)} are the scaled dropout masks."""
        count, biases = len(self.outputs), [bias.value for bias in self.biases]
        total = biases[0].new_zeros(self.shape[0], self.shape[1] * count, biases[0].shape[2], places_GB.shape[1])
        for output, bias in enumerate(self.biases):
            spread = bias.value.unsqueeze(3).expand(-1, -1, -1, total.shape[3])
            total = total.index_add(1, bias.variants * count + output, spread)
        for stage in self.stages:
            part = stage.logits(self.features[stage.key, stage.stage][places_GB], masks.get(stage.key))
            total = total.index_add(1, stage.columns.variants[stage.inside] * count + stage.output, part)
        logits: Tensor = total.unflatten(1, (-1, count))
        return logits

    def _masks(self, step: GridStep) -> dict[str, Tensor]:
        """Draws the scaled dropout masks {key: (G, E, B)}, once per seed; they equal those of rows trained alone."""
        if not self.dropout:
            return {}
        widths: dict[str, int] = defaultdict(int)
        for stage in self.stages:
            widths[stage.key] = max(widths[stage.key], int(stage.places.max()) + 1)
        counts, batch = step.counts_GB.sum(1).tolist(), step.counts_GB.shape[1]
        masks = {}
        for key, width in widths.items():
            drawn = [
                functional.pad(kept(width, n, p=self.dropout, seed=seed, step=step.number, part=key), (0, batch - n))
                for seed, n in zip(step.seeds, counts, strict=True)
            ]
            masks[key] = torch.stack(drawn).to(step.counts_GB.device) / (1 - self.dropout)
        return masks

    def _losses(self, logits_GVOKB: Tensor, step: GridStep) -> Tensor:
        """Computes each row's loss (G, V): the mean over the counted images, with the class weights."""
        criterion, own = self.data.criterion, self.data.targets[step.places_GB]
        by_class = own.ndim == 3
        aligned = own.mT if by_class else own  # (G, K, B) or (G, B)
        targets = aligned[:, None, None].expand(*logits_GVOKB.shape[:3], *aligned.shape[1:]).flatten(0, 2)
        losses = image_losses(logits_GVOKB.flatten(0, 2), targets, criterion=criterion)
        by_image = losses.view(*logits_GVOKB.shape[:3], -1)
        counts_GB = step.counts_GB.to(by_image.dtype)
        # as in torch: with class probabilities the mean is over the images, with labels it is over their weights
        weights_GB = counts_GB if criterion.weights is None or by_class else counts_GB * criterion.weights[own]
        total_G = weights_GB.sum(1).clamp_min(torch.finfo(by_image.dtype).tiny)
        return ((by_image * counts_GB[:, None, None]).sum(3) * self.present_VO).sum(2) / total_G[:, None]

    def _right(self, logits_GVKB: Tensor, places: Tensor) -> Tensor:
        """Returns whether each image is classified correctly, (G, V, B); label sets must match exactly."""
        if self.data.criterion.label_sets:
            return ((logits_GVKB >= 0) == (self.data.targets[places].mT > 0.5)).all(2)
        return logits_GVKB.argmax(2) == self.data.labels[places]

    def _fused(self, logits_GVOKB: Tensor) -> Tensor:
        """Returns fused logits (G, V, K, B); for late fusion, the logarithm of the streams' mean probabilities."""
        if len(self.outputs) == 1:
            return logits_GVOKB[:, :, 0]
        logs = logits_GVOKB.log_softmax(3) + self.present_VO.log()[:, :, None, None]
        return logs.logsumexp(2) - self.present_VO.sum(1).log()[:, None, None]

    def _clip(self) -> None:
        """Clips the gradient norm of each row, as torch's clip_grad_norm_ does for a single network."""
        squares_GV = self.present_VO.new_zeros(self.shape)
        trained = [(p.variants, p.value.grad) for p in self.parameters if p.value.grad is not None]
        for variants, gradient in trained:
            squares_GV = squares_GV.index_add(1, variants, gradient.square().flatten(2).sum(2))
        factor_GV = (self.settings.clip_norm / (squares_GV.sqrt() + 1e-6)).clamp_max(1.0)
        for variants, gradient in trained:
            gradient.mul_(factor_GV[:, variants].view(*gradient.shape[:2], *[1] * (gradient.ndim - 2)))

    def _bias(self, output: str) -> RowParameter:
        return self._parameter(output, "", lambda network: _classifier(network, output).bias)

    def _parameter(self, key: str, stage: str, of: Callable[[MultiStream], Tensor]) -> RowParameter:
        """Stacks a parameter of the variants that have this stream and this stage; "" means any."""
        return RowParameter(self.grid, [v for v, network in enumerate(self.grid[0]) if _has(network, key, stage)], of)

    def _stages(self, key: str) -> Iterator[StageRows]:
        """Yields the stages of a stream that at least one variant keeps, from shallow to deep."""
        branches = [network.branches[key] for network in self.grid[0] if key in network.branches]
        averages = isinstance(branches[0].temporal, Average)
        output = key if len(self.outputs) > 1 else ""
        shared = self._parameter(key, "", lambda network: _columns(network, key, "", output)) if averages else None
        for stage in dict.fromkeys(stage for branch in branches for stage in (branch.stream.stages or branch.taps)):
            if any(stage in branch.taps for branch in branches):
                yield self._stage(key, stage, output, shared)

    def _stage(self, key: str, stage: str, output: str, shared: RowParameter | None) -> StageRows:
        """Builds one stage; `shared` are the classifier's columns for the stream's mean token."""
        columns = shared or self._parameter(key, stage, lambda network: _columns(network, key, stage, output))
        variants = [v for v in columns.variants.tolist() if stage in self.grid[0][v].branches[key].taps]
        taps = [self.grid[0][v].branches[key].taps for v in variants]
        first, device, projection = taps[0][stage], columns.value.device, None
        if isinstance(first.affine_layer, nn.Linear):
            weight = self._parameter(key, stage, lambda network: _layer(network, key, stage).weight)
            projection = weight, self._parameter(key, stage, lambda network: _layer(network, key, stage).bias)
        starts = torch.tensor([0 if shared else first.width * list(each).index(stage) for each in taps])
        fraction = torch.tensor([1 / len(each) if shared else 1.0 for each in taps])
        return StageRows(
            key,
            stage,
            output=self.outputs.index(output),
            projection=projection,
            columns=columns,
            inside=torch.searchsorted(columns.variants, torch.tensor(variants, device=device)),
            places=(starts[:, None] + torch.arange(first.width)).to(device),
            fraction=fraction.view(-1, 1, 1).to(device),
        )


def _has(network: MultiStream, key: str, stage: str) -> bool:
    """Returns whether a network has this stream and a tap at this stage; "" means any."""
    if not key:
        return True
    return key in network.branches and (not stage or stage in network.branches[key].taps)


def _classifier(network: MultiStream, output: str) -> nn.Linear:
    """Returns the linear layer of an output's logits: with late fusion the stream's head, else the only classifier."""
    fusion = network.fusion
    layer = fusion.classifier if isinstance(fusion, Early) else fusion.heads[output or next(iter(fusion.heads))]
    assert isinstance(layer, nn.Linear)
    return layer


def _layer(network: MultiStream, key: str, stage: str) -> nn.Linear:
    layer = network.branches[key].taps[stage].affine_layer
    assert isinstance(layer, nn.Linear)
    return layer


def _columns(network: MultiStream, key: str, stage: str, output: str) -> Tensor:
    """Returns the classifier's columns (K, W) for a stage's token or, if `stage` is "", for a stream's whole vector."""
    branch, start = network.branches[key], 0
    if isinstance(network.fusion, Early):
        keys = list(network.fusion.widths)
        start = sum(network.fusion.widths[before] for before in keys[: keys.index(key)])
    width = branch.out_width
    if stage:
        width = branch.taps[stage].width
        start += width * list(branch.taps).index(stage)
    return _classifier(network, output).weight[:, start : start + width]
