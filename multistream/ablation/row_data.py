"""The training data of rows: pooled features, labels and splits in memory; the batches of all seeds; and the
parameters of rows that train in one batch, with dimensions G (seeds) and V (variants).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from multistream.data.splits import Parts
from multistream.interfaces import Loss
from multistream.network.network import MultiStream
from multistream.nn.nested import take_rows
from multistream.recipe import TrainingSettings
from multistream.training.feeds import images_of, shown_rows

PLAIN = 1024
"""The batch size in eval mode."""


@dataclass(frozen=True)
class RowData:
    """Pooled features {key: {stage: (V * N, P)}} and targets (V * N,) or (V * N, K) on a device, as in PooledFeed.

    V is the number of views, N that of images. `labels` (V * N,) are the correct classes. `valid` (V * N,), on the CPU,
    marks decoded images. The indices in `parts` refer to the first view.
    """

    features: Mapping[str, Mapping[str, Tensor]]
    labels: Tensor
    targets: Tensor
    valid: Tensor
    parts: Parts
    criterion: Loss

    def rows(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Selects the images that could be decoded."""
        kept: NDArray[np.int64] = indices[self.valid.numpy()[indices]]
        return kept

    def take(self, places: Tensor) -> dict[str, dict[str, Tensor]]:
        """Returns the features of these images, {key: {stage: (B, P)}}."""
        return take_rows(self.features, places)

    def plain(self, indices: NDArray[np.int64]) -> Iterator[Tensor]:
        """Yields batches of the images that could be decoded, in their order."""
        return iter(torch.from_numpy(self.rows(indices)).to(self.labels.device).split(PLAIN))


@dataclass(frozen=True)
class GridStep:
    """One batch per seed: images (G, B), and a mask (G, B) of the counted ones. `of` batches form an optimizer step."""

    places_GB: Tensor
    counts_GB: Tensor
    seeds: Sequence[int]
    number: int
    """The step number, which seeds the dropout masks, as in training."""
    of: float = 1

    def alone(self, g: int) -> Tensor:
        """Returns the counted images of one seed."""
        return self.places_GB[g][self.counts_GB[g]]


@dataclass(frozen=True)
class RowMetrics:
    """Mean cross entropy and accuracy of every row, (G, V) float64 on the CPU."""

    loss: Tensor
    accuracy: Tensor


class RowBatch(Protocol):
    """Networks in a grid of G seeds and V variants, trained independently of each other."""

    def backward(self, step: GridStep) -> Tensor:
        """Accumulates the step's gradients; returns each row's loss, (G, V)."""

    def update(self, factor: float) -> None:
        """Takes an optimizer step for every row, at `factor` times the learning rate."""

    def measure(self, indices: NDArray[np.int64]) -> RowMetrics:
        """Measures every row on these images, in eval mode, without label smoothing and class weights."""

    def remember(self, rows_GV: Tensor) -> None:
        """Keeps a copy of the current weights of these rows."""

    def stop(self, rows_GV: Tensor) -> None:
        """Marks rows as stopped; later updates of them have no effect on the result."""

    def finish(self) -> None:
        """Copies the kept weights into the networks."""


def steps(data: RowData, seeds: Sequence[int], *, epoch: int, settings: TrainingSettings) -> Iterator[GridStep]:
    """Yields the batches of an epoch; each seed has its own order and views, equal to those of `train`."""
    batch_size, accumulation = settings.batch_size, settings.accumulation
    train, rows = data.parts.train, images_of(data.valid, settings)
    orders = np.stack([shown_rows(train, rows, settings=settings, seed=seed, epoch=epoch) for seed in seeds])
    images = len(train)
    for position in range(-(-images // batch_size)):
        first = position - position % accumulation
        chunk = torch.from_numpy(orders[:, position * batch_size : (position + 1) * batch_size].copy())
        places, counts = _gathered(chunk, data.valid[chunk])
        device = data.labels.device
        together = min(accumulation * batch_size, images - first * batch_size)
        yield GridStep(
            places.to(device),
            counts.to(device),
            seeds,
            number=epoch * 1_000_003 + position,
            of=together / chunk.shape[1],
        )


def _gathered(places_GB: Tensor, valid_GB: Tensor) -> tuple[Tensor, Tensor]:
    """Moves images that cannot be decoded to the end of their row and trims the rows; the mask excludes the rest."""
    if bool(valid_GB.all()):
        return places_GB, valid_GB
    front = torch.argsort((~valid_GB).int(), dim=1, stable=True)
    width = max(1, int(valid_GB.sum(1).max()))
    return places_GB.gather(1, front)[:, :width], valid_GB.gather(1, front)[:, :width]


Grid = Sequence[Sequence[MultiStream]]
"""networks[g][v] is the network of seed g and variant v."""


class RowParameter:
    """One parameter of all seeds and of the variants that have it: `value` (G, V_p, ...), indices `variants` (V_p,)."""

    def __init__(self, grid: Grid, variants: Sequence[int], of: Callable[[MultiStream], Tensor]) -> None:
        self.sources = [[of(networks[v]).detach() for v in variants] for networks in grid]
        self.best = torch.stack([torch.stack(row) for row in self.sources])
        self.value = nn.Parameter(self.best.clone(), requires_grad=of(grid[0][variants[0]]).requires_grad)
        self.variants = torch.tensor(variants, device=self.value.device)
        self.is_bias = self.value.ndim == 3

    @torch.no_grad()
    def remember(self, rows_GV: Tensor) -> None:
        """Keeps a copy of the current values of these rows."""
        chosen = rows_GV.to(self.variants.device)[:, self.variants]
        self.best[chosen] = self.value.detach()[chosen]

    @torch.no_grad()
    def write_back(self) -> None:
        """Copies the kept values into the networks."""
        for row, values in zip(self.sources, self.best, strict=True):
            for source, value in zip(row, values, strict=True):
                source.copy_(value)


@dataclass(frozen=True)
class StageRows:
    """A stage of the variants that keep it: its projection, and the classifier's columns for its token."""

    key: str
    stage: str
    output: int
    projection: tuple[RowParameter, RowParameter] | None
    """Weight (G, V_s, W, P) and bias (G, V_s, W); None if the token is the pooled feature itself."""
    columns: RowParameter
    """(G, V_c, K, W); shared by the stages of a stream whose tokens are averaged."""
    inside: Tensor
    """(V_s,): the indices of the stage's variants in `columns.variants`."""
    places: Tensor
    """(V_s, W): the indices of the token in the stream's vector, to which dropout is applied."""
    fraction: Tensor
    """(V_s, 1, 1): 1, or 1 / T if T tokens are averaged."""

    @property
    def parameters(self) -> tuple[RowParameter, ...]:
        """The columns and, if there is a projection, its weight and bias."""
        return (self.columns, *(self.projection or ()))

    def logits(self, x_GBP: Tensor, mask_GEB: Tensor | None) -> Tensor:
        """Returns the token's part of the logits (G, V_s, K, B) from standardised features."""
        columns = self.columns.value[:, self.inside] * self.fraction
        if self.projection is None:
            tokens_GWB = x_GBP.mT if mask_GEB is None else x_GBP.mT * mask_GEB[:, self.places[0]]
            return _shared(columns, tokens_GWB)
        weight, bias = (each.value for each in self.projection)
        if mask_GEB is None:  # multiplying columns by weights first needs K instead of W products per image
            return _shared(columns @ weight, x_GBP.mT) + columns @ bias.unsqueeze(3)
        tokens_GVWB = (_shared(weight, x_GBP.mT) + bias.unsqueeze(3)) * mask_GEB[:, self.places]
        return columns @ tokens_GVWB


def _shared(weight_GVKP: Tensor, x_GPB: Tensor) -> Tensor:
    """Multiplies the weights of V variants with the images that they share; returns (G, V, K, B)."""
    product: Tensor = (weight_GVKP.flatten(1, 2) @ x_GPB).unflatten(1, weight_GVKP.shape[1:3])
    return product
