"""The parameters of rows trained in one batch, with dimensions G (seeds) and V (variants), and their stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from multistream.network.network import MultiStream

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
